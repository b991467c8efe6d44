"""Values as messages: what crosses is data, and comparing it means what Python's == means for plain values."""

from __future__ import annotations

import contextlib
import json
import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxrl_core.rewards.sandbox import wire

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.integers(-(10**40), 10**40) | st.floats() | st.text() | st.binary()
)
HASHABLE = st.recursive(SCALARS, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=5)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(HASHABLE, inner, max_size=4)
        | st.sets(HASHABLE, max_size=4)
    ),
    max_leaves=12,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(list("ifcbltsd?")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=20,
)


def sent(value):
    return json.loads(wire.frame(wire.encode(value))[wire.HEADER :])


def has_nan(value) -> bool:
    return "nan" in repr(value)


@given(VALUES)
@settings(deadline=None)
def test_a_plain_value_arrives_equal(value):
    if not has_nan(value):
        assert wire.decode(sent(value)) == value
        assert wire.matches(sent(value), value)


@given(VALUES, VALUES)
@settings(deadline=None)
def test_two_values_match_where_python_says_they_are_equal(given_value, expected):
    if not has_nan(given_value) and not has_nan(expected):
        assert wire.matches(sent(given_value), expected) == (given_value == expected)


@given(JSON, VALUES)
@settings(deadline=None, max_examples=500)
def test_no_message_breaks_the_judge(message, expected):
    assert wire.matches(message, expected) in (True, False)
    with contextlib.suppress(ValueError, TypeError, OverflowError):  # what the child that decodes expects
        wire.decode(message)


@pytest.mark.parametrize(
    ("given_value", "expected", "equal"),
    [
        (1, 1.0, True),
        (True, 1, True),
        (0, False, True),
        ("1", 1, False),
        ([1], (1,), False),
        ({1.0: "a"}, {1: "a"}, True),
        ({1, 2}, {2.0, True}, True),
        ([], None, False),
        ("", None, False),
        (0, None, False),
        (2**60, float(2**60), True),
        (2**60 + 1, float(2**60), False),
        (math.nan, math.nan, False),
        (1 + 0j, 1, True),
    ],
)
def test_equality_is_pythons(given_value, expected, equal):
    assert wire.matches(sent(given_value), expected) is equal


def test_tuples_are_lists_only_where_the_expected_value_comes_from_json():
    assert wire.matches(sent([(1, 2)]), [[1, 2]], tuples_as_lists=True)
    assert not wire.matches(sent([(1, 2)]), [[1, 2]])
    assert not wire.matches(sent({1, 2}), [1, 2], tuples_as_lists=True)


@pytest.mark.parametrize("message", [["s", [1, 1]], ["s", [1, 2, 2]], ["d", [[1, 1], [1, 1]]], ["l", [1, 2]]])
def test_a_set_or_mapping_with_an_item_twice_equals_none(message):
    assert not wire.matches(message, {1, 2})
    assert not wire.matches(message, {1: 1, 2: 2})


def test_colliding_hashes_cost_the_judge_no_time():
    collide = ["s", [["i", hex(number * (2**61 - 1))] for number in range(1, 30_000)]]
    started = time.monotonic()
    assert not wire.matches(collide, set(range(1, 30_000)))
    assert time.monotonic() - started < 2.0


def test_an_object_with_an_equality_of_its_own_travels_as_its_plain_value():
    class Yes(int):
        def __eq__(self, other):
            return True

        __hash__ = int.__hash__

    class Also(list):
        def __iter__(self):
            return iter([1, 2, 3])

    assert wire.encode(Yes(7)) == 7 and not wire.matches(sent(Yes(7)), 8)
    assert wire.encode(Also()) == ["l", []]
    assert wire.encode(object()) == ["?", "object"]
    with pytest.raises(wire.NotPlain):
        wire.encode([object()], strict=True)
