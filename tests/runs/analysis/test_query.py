from __future__ import annotations

import math
import operator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxrl_core.errors import ConfigError
from oxrl_core.runs.analysis.query import names_in, parse, sort_key

COLUMNS = ["reward", "length", "finish_reason", "learned", "completion"]
ROW = {"reward": 0.0, "length": 21, "finish_reason": "length", "learned": True, "completion": "say 'x = 1'"}


def holds(condition: str, row: dict[str, Any] = ROW) -> bool:
    return parse(condition, COLUMNS)(row)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("reward=0", True),
        ("reward = 0 and finish_reason = length", True),
        ("reward=0 and finish_reason=stop", False),
        ("reward=1 or length>20", True),
        ("reward=1 and length>20 or learned=true", True),  # and binds tighter
        ("reward=1 and (length>20 or learned=true)", False),
        ("not reward=1 and not (length<=20)", True),
        ("finish_reason!=stop", True),
        ("completion~'x = 1'", True),
        (r'completion ~ "z"', False),
        ("completion !~ z", True),
        ("part.format=null", True),
        ("part.format>0", False),
        ("part.format!=1", False),  # it has none: nothing is known about it
        ("length=21", True),
        ("length ~ 2", True),
        ("reward>=-1e-3", True),
    ],
)
def test_a_condition_means_what_it_says(condition: str, expected: bool) -> None:
    assert holds(condition) is expected


@pytest.mark.parametrize(
    ("condition", "what"),
    [
        ("rewrad=0", "Did you mean"),
        ("reward", "expected one of"),
        ("reward=", "expected a value"),
        ("reward=0 length=1", "expected `and` or `or`"),
        ("(reward=0", "expected \\)"),
        ("reward<stop", "compares numbers"),
        ("__import__('os').system('true')=0", "."),
        ("(" * 60 + "reward=0" + ")" * 60, "parentheses deep"),
        ("reward='open", "says nothing"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(condition: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        parse(condition, COLUMNS)


NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=32) | st.integers(-1000, 1000)
COMPARE = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "!=": operator.ne,
}


@given(NUMBERS, st.sampled_from(sorted(COMPARE)), NUMBERS)
def test_numbers_compare_as_numbers(value: float, symbol: str, wanted: float) -> None:
    assert holds(f"reward {symbol} {wanted!r}", {"reward": value}) is COMPARE[symbol](value, wanted)


@given(st.text(), st.text())
def test_any_text_can_be_asked_for_in_quotes(value: str, wanted: str) -> None:
    quoted = "'" + wanted.replace("\\", "\\\\").replace("'", "\\'") + "'"
    assert holds(f"completion={quoted}", {"completion": value}) is (value == wanted)
    assert holds(f"completion~{quoted}", {"completion": value}) is (wanted in value)


@given(
    st.lists(st.booleans(), min_size=1, max_size=6), st.lists(st.sampled_from(["and", "or"]), min_size=5, max_size=5)
)
def test_and_binds_tighter_than_or(truths: list[bool], words: list[str]) -> None:
    parts = [f"length{'=' if truth else '!='}21" for truth in truths]
    text, python = parts[0], str(truths[0])
    for part, truth, word in zip(parts[1:], truths[1:], words, strict=False):
        text, python = f"{text} {word} {part}", f"{python} {word} {truth}"
    assert holds(text) is eval(python)  # noqa: S307 - Python's own rule is the referee; the text is True, False, and, or


@given(st.text(alphabet="abc =!<>~()'\"\\andortl01.", max_size=40))
def test_no_text_does_anything_but_parse_or_be_refused(text: str) -> None:
    try:
        parse(text, COLUMNS)(ROW)
    except ConfigError as error:
        assert error.next_step


def test_a_nan_is_worse_than_any_number_and_nothing_is_less_than_all() -> None:
    assert holds("reward > 1e30", {"reward": math.nan})
    assert sorted([2.0, math.nan, None, -1.0], key=sort_key)[0] is None
    assert math.isnan(sorted([2.0, math.nan, None, -1.0], key=sort_key)[-1])


def test_the_columns_of_a_condition_are_known_without_its_values() -> None:
    assert names_in("reward=0 and (finish_reason=length or part.x > 1)") == ["reward", "finish_reason", "part.x"]
