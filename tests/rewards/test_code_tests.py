"""What a row's tests are taken apart into, and what is left whole because it cannot be."""

from __future__ import annotations

import pytest

from oxrl_core.rewards.code_tests import read_tests

HEAD = "METADATA = {'author': 'x'}\n\n\ndef check(candidate):\n"


def row(*lines: str, head: str = HEAD) -> dict[str, str]:
    return {"prompt": "", "entry_point": "f", "test": head + "".join(f"    {line}\n" for line in lines)}


def test_a_check_that_only_asserts_results_is_its_calls() -> None:
    known = [
        "'What.'",
        "assert candidate(1, x=[2]) == (3,), 'message'",
        "assert True",
        "assert candidate() == -1",
    ]
    tests = read_tests(row(*known))
    assert tests.script is None and len(tests) == 2
    first, second = tests.calls
    assert (first.function, first.arguments, first.keywords, first.expected) == ("f", [1], {"x": [2]}, (3,))
    assert (second.function, second.arguments, second.expected) == ("f", [], -1)
    assert not first.from_json  # a list is no tuple there


@pytest.mark.parametrize(
    "lines",
    [
        ["assert candidate(1) == 2", "assert abs(candidate(1) - 2) < 1"],
        ["assert candidate(1)"],
        ["assert not candidate(1) == 2"],
        ["assert candidate(1) != 2"],
        ["assert candidate(1) == 2 == 2"],
        ["assert candidate(1) == candidate(1)"],
        ["assert candidate(candidate(1)) == 2"],
        ["assert other(1) == 2"],
        ["x = 1", "assert candidate(x) == 2"],
        ["assert candidate(*[1]) == 2", "x = 1"],
        ["assert candidate(**{'a': 1}) == 2"],
        ["assert False"],
        ["for n in range(3):", "    assert candidate(n) == n"],
        ["pass"],
        ["return", "assert candidate(1) == 2"],
    ],
)
def test_any_other_check_is_left_as_it_is(lines: list[str]) -> None:
    tests = read_tests(row(*lines))
    assert tests.script is not None and not tests.calls and len(tests) == 1


@pytest.mark.parametrize(
    "head",
    [
        "import math\n" + HEAD,
        "candidate = 1\n" + HEAD,
        HEAD.replace("check", "test"),
        HEAD.replace("def ", "@wrap\ndef "),
        "METADATA = dict()\n" + HEAD,
    ],
)
def test_code_beside_the_check_is_not_lost(head: str) -> None:
    tests = read_tests(row("assert candidate(1) == 2", head=head))
    assert tests.script is not None and not tests.calls
