"""The reward `math` on a table of answers with reasons, on bombs, and on what stands around an answer."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxrl_core.rewards import math_client
from oxrl_core.rewards.answers import boxes
from oxrl_core.rewards.base import close_workers, get_reward, score_rollouts
from oxrl_core.rewards.math_client import ask_math_verify, too_large
from oxrl_core.rewards.mathematics import compare
from oxrl_core.types import Prompt, Rollout, Score


def load_cases() -> Any:
    spec = spec_from_file_location("math_cases", Path(__file__).with_name("math_cases.py"))
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CASES = load_cases()
ACCEPTED = CASES.ACCEPTED + CASES.ALGEBRA_ACCEPTED
REFUSED = CASES.REFUSED + CASES.ALGEBRA_REFUSED


@pytest.fixture(scope="module", autouse=True)
def math_verify_stands() -> Iterator[None]:
    """The process of math-verify is started once: importing it is no part of any deadline."""
    assert ask_math_verify("x+1", "1+x") == ("equal", "")
    yield
    close_workers()


def rollout_of(text: str, answer: str, prompt: str = "") -> Rollout:
    return Rollout(Prompt("math/train/0", [1], prompt, answer), 0, [1], [0.0], "stop", 0, 0, text=text)


def judge(text: str, answer: str, prompt: str = "", name: str = "math") -> Score:
    return get_reward(name)(rollout_of(text, answer, prompt))


def test_the_table_is_as_large_as_it_should_be_and_half_of_it_is_refused() -> None:
    wrong = len(REFUSED) + len(CASES.ABSENT) + sum(row[3] == 0 for row in CASES.WHOLE)
    total = len(ACCEPTED) + len(REFUSED) + len(CASES.WHOLE) + len(CASES.ABSENT)
    assert total >= 150
    assert 2 * wrong >= total
    assert all(row[-1] for row in [*ACCEPTED, *REFUSED, *CASES.WHOLE, *CASES.ABSENT])


@pytest.mark.parametrize(("answer", "reference", "reason"), ACCEPTED)
def test_accepted(answer: str, reference: str, reason: str) -> None:
    score = judge(rf"So it is \boxed{{{answer}}}.", reference)
    assert (score.value, score.status) == (1.0, "ok"), (reason, score)


@pytest.mark.parametrize(("answer", "reference", "reason"), REFUSED)
def test_refused(answer: str, reference: str, reason: str) -> None:
    score = judge(rf"So it is \boxed{{{answer}}}.", reference)
    assert (score.value, score.status) == (0.0, "ok"), (reason, score)


@pytest.mark.parametrize(("text", "prompt", "reference", "value", "reason"), CASES.WHOLE)
def test_which_answer_counts(text: str, prompt: str, reference: str, value: int, reason: str) -> None:
    score = judge(text, reference, prompt)
    assert (score.value, score.status) == (value, "ok"), (reason, score)


@pytest.mark.parametrize(("text", "prompt", "reason"), CASES.ABSENT)
def test_no_answer(text: str, prompt: str, reason: str) -> None:
    score = judge(text, "42", prompt)
    assert (score.value, score.status) == (0.0, "no_answer"), (reason, score)
    assert score.detail


# What hung math-verify for good, or cost it its 5 seconds.
BOMBS = {
    "tower": r"10^{10^{10}}",
    "higher tower": r"9^{9^{9^{9^{9}}}}",
    "factorial": "1000000000!",
    "nested factorials": "((100!)!)!",
    "binomial": r"\binom{10^{12}}{5\cdot10^{11}}",
    "sum": r"\sum_{i=1}^{10^9} i^i",
    "product": r"\prod_{k=1}^{10^8}k",
    "integral": r"\int_0^1 e^{e^{e^{x^x}}}",
    "parentheses": "(" * 2000 + "42" + ")" * 2000,
    "matrix": r"\begin{pmatrix}" + r"\\".join("&".join(["7"] * 60) for _ in range(60)) + r"\end{pmatrix}",
    "set": r"\{" + ",".join(map(str, range(5000))) + r"\}",
    "fractions": r"\frac{1}{" * 300 + "2" + "}" * 300,
}
# The static look passes these; the clock ends them, or they are answered.
SLOW = [r"(x+y+z+w)^{900}", r"\sqrt{x^{97}+\sqrt{x^{89}+\sqrt{x^{83}+1}}}-\sqrt[7]{x^{5}}", r"999! + 998! + x"]


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_ends_in_time_as_a_wrong_answer(name: str) -> None:
    start = time.monotonic()
    score = judge(rf"\boxed{{{BOMBS[name]}}}", "43")
    assert time.monotonic() - start < 1.6
    assert (score.value, score.status) == (0.0, "ok")


@pytest.mark.parametrize("text", [r"\boxed{41}" * 50_000, r"\boxed{" * 50_000, "}" * 100_000, "<think>" * 20_000])
def test_a_hostile_text_ends_in_time(text: str) -> None:
    start = time.monotonic()
    assert judge(text, "42").value == 0.0
    assert time.monotonic() - start < 1.6


@pytest.mark.parametrize("answer", SLOW)
def test_what_only_the_clock_can_end_is_ended_and_the_next_question_is_answered(answer: str) -> None:
    start = time.monotonic()
    score = judge(rf"\boxed{{{answer}}}", "x+1")
    assert time.monotonic() - start < 1.6
    assert score.value == 0.0 or (score.status == "timeout" and math.isnan(score.value))
    assert judge(r"\boxed{1+x}", "x+1").value == 1.0


def test_the_pool_goes_on_after_bombs() -> None:
    reward = get_reward("math")
    score_rollouts(reward, [rollout_of(r"\boxed{2y}", "y+y")], 120)  # the workers' start is not what is measured
    texts = [rf"\boxed{{{bomb}}}" for bomb in BOMBS.values()] + [r"\boxed{42}"]
    start = time.monotonic()
    scores = score_rollouts(reward, [rollout_of(text, "42") for text in texts], 30)
    assert time.monotonic() - start < 1.6
    assert [score.status for score in scores[:-1]] == ["ok"] * len(BOMBS)
    assert scores[-1].value == 1.0


def test_a_question_that_hangs_costs_its_time_and_its_process_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(math_client, "SECONDS", 0.2)
    start = time.monotonic()
    outcome, _ = math_client._server.ask("3", "9^{9^{9}}")  # past 20 s where nothing ends it
    assert outcome in ("timeout", "died") and time.monotonic() - start < 1.6
    monkeypatch.undo()  # a new process has to start, which takes its time on a busy machine
    assert math_client._server.ask("x+1", "1+x") == ("equal", "")


def test_without_math_verify_an_undecided_pair_is_an_error_and_no_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(math_client, "find_spec", lambda name: None)
    score = judge(r"\boxed{q+1}", "1+q")
    assert score.status == "error" and math.isnan(score.value) and "pip install math-verify" in score.detail
    assert judge(r"\boxed{1/2}", "0.5").value == 1.0  # arithmetic needs nobody


@pytest.mark.parametrize(
    "formula", ["x^2+1", r"\frac{1}{2}", "e^{x^2}", "100!", r"\binom{10}{3}", "2^{100}", r"\sqrt{2}", "(1,2]", "x^{-1}"]
)
def test_an_ordinary_formula_is_not_too_large(formula: str) -> None:
    assert too_large(formula) == ""


numerals = st.integers(-(10**9), 10**9)


@settings(deadline=None)
@given(numerals, numerals.filter(bool))
def test_a_fraction_is_equal_to_itself_however_it_is_written(above: int, below: int) -> None:
    wanted = f"{above}/{below}"
    for given_ in (rf"\frac{{{above}}}{{{below}}}", rf"\dfrac{{{-above}}}{{{-below}}}", f"{2 * above}/{2 * below}"):
        assert compare(wanted, given_).is_equal
    assert not compare(wanted, f"{above + 1}/{below}").is_equal


@settings(deadline=None)
@given(numerals, numerals)
def test_two_integers_are_equal_only_if_they_are_the_same(left: int, right: int) -> None:
    assert compare(f"{left:,}", f"{right}.0").is_equal == (left == right)


@settings(deadline=None)
@given(st.text(alphabet="{}\\boxed ab", max_size=60))
def test_boxes_lie_beside_each_other_and_are_closed(text: str) -> None:
    found = boxes(text)
    assert all(left.end <= right.start for left, right in pairwise(found))
    for box in found:
        plain = box.content.replace("\\\\", "").replace(r"\{", "").replace(r"\}", "")
        assert plain.count("{") == plain.count("}")


@pytest.mark.parametrize(
    ("text", "value", "status"),
    [
        (r"\boxed{100}", 1.0, "ok"),
        ("#### 100", 1.0, "ok"),
        ("it is 100", 1.0, "ok"),
        (r"\boxed{109}", 0.5, "ok"),
        (r"\boxed{110}", 0.5, "ok"),
        (r"\boxed{111}", 0.2, "ok"),
        (r"\boxed{-100}", 0.2, "ok"),
        (r"\boxed{x}", 0.0, "no_answer"),
        (r"\boxed{99=100}", 0.0, "no_answer"),
        (r"\boxed{99} \boxed{100}", 0.0, "ok"),
        ("no idea", 0.0, "no_answer"),
        ("<think>100</think> hm", 0.0, "no_answer"),
        ("<think>100", 0.0, "no_answer"),
    ],
)
def test_soft_math(text: str, value: float, status: str) -> None:
    score = judge(text, "100", name="soft_math")
    assert (score.value, score.status) == (value, status)


def test_soft_math_without_a_number_to_compare_with_is_an_error() -> None:
    assert judge(r"\boxed{1}", "x+1", name="soft_math").status == "error"


def test_a_comparison_that_runs_out_of_memory_is_nobodys_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    from oxrl_core.rewards.math_server import Checker

    def out_of_memory(*_: object, **__: object) -> bool:
        raise MemoryError

    checker = Checker()
    assert checker.is_equal("$x+1$", "$1+x$") == ("equal", "")
    monkeypatch.setattr(checker.library, "verify", out_of_memory)
    with pytest.raises(MemoryError):  # the server answers it with "too_large"; "different" would be a false zero
        checker.is_equal("$x+1$", "$1+x$")
