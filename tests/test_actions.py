"""Actions become tokens and come back within the bounds that the codes promise."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxrl_core.actions import (
    ActionCode,
    code_of,
    cosine_transform,
    inverse_cosine_transform,
    learn_merges,
    merged,
    percentile,
    unmerged,
)
from oxrl_core.errors import DataError

Numbers = st.floats(-1, 1, allow_nan=False, width=32)


@st.composite
def chunks(draw: st.DrawFn) -> list[list[float]]:
    horizon, dimensions = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    step = st.lists(Numbers, min_size=dimensions, max_size=dimensions)
    return draw(st.lists(step, min_size=horizon, max_size=horizon))


def plain(scheme: str, chunk: list[list[float]], **more: object) -> ActionCode:
    size = len(chunk[0])
    return ActionCode(scheme, len(chunk), (-1.0,) * size, (1.0,) * size, **more)  # type: ignore[arg-type]


@given(chunks(), st.integers(2, 300))
def test_a_uniform_number_comes_back_within_half_a_bin(chunk: list[list[float]], bins: int) -> None:
    code = plain("uniform", chunk, bins=bins)
    back = code.read(code.write(chunk))
    assert back is not None
    for step, again in zip(chunk, back, strict=True):
        assert all(abs(a - b) <= 1 / bins + 1e-9 for a, b in zip(step, again, strict=True))


@given(chunks(), st.floats(0.5, 50), st.integers(0, 20))
def test_a_fast_chunk_comes_back_within_the_rounding_of_its_coefficients(
    chunk: list[list[float]], scale: float, num_merges: int
) -> None:
    base = plain("fast", chunk, scale=scale)
    merges = learn_merges([base.encode(chunk)] * 3, base.num_tokens, num_merges)
    code = plain("fast", chunk, scale=scale, merges=merges)
    tokens = code.encode(chunk)
    assert len(tokens) <= len(chunk) * len(chunk[0]) and max(tokens) < code.num_tokens
    back = code.decode(tokens)
    assert back is not None
    for at in range(len(chunk[0])):
        error = math.dist([step[at] for step in chunk], [step[at] for step in back])
        assert error <= math.sqrt(len(chunk)) / (2 * scale) + 1e-6


@given(st.lists(Numbers, min_size=1, max_size=16))
def test_the_transform_keeps_lengths_and_can_be_undone(values: list[float]) -> None:
    parts = cosine_transform(values)
    assert math.hypot(*parts) == pytest.approx(math.hypot(*values), abs=1e-6)
    assert inverse_cosine_transform(parts) == pytest.approx(values, abs=1e-6)


def test_a_constant_has_one_frequency_and_one_that_turns_once_another() -> None:
    assert cosine_transform([3.0] * 4) == pytest.approx([6, 0, 0, 0])  # 3 x sqrt(4)
    assert cosine_transform([1.0, -1.0]) == pytest.approx([0, math.sqrt(2)])


@given(st.lists(st.lists(st.integers(0, 4), max_size=12), min_size=1, max_size=6), st.integers(0, 12))
def test_merging_can_be_undone_and_never_lengthens(rows: list[list[int]], most: int) -> None:
    merges = learn_merges(rows, 5, most)
    for row in rows:
        joined = merged(row, merges, 5)
        assert unmerged(joined, merges, 5) == row and len(joined) <= len(row)


def test_the_commonest_pair_is_merged_first() -> None:
    assert learn_merges([[1, 2, 1, 2, 3], [1, 2]], 10, 5) == ((1, 2),)  # 1 2 three times; nothing else twice
    assert merged([1, 2, 3, 1, 2], [(1, 2)], 10) == [10, 3, 10]
    assert learn_merges([[1, 1, 1, 1]] * 2, 10, 5) == ((1, 1), (10, 10))


def test_percentiles_leave_wild_demonstrations_outside() -> None:
    assert percentile([0.0, 10.0], 0.25) == 2.5
    values = [[[float(value), 0.5]] for value in [*range(101), 10_000]]
    code = code_of(values, "uniform", bins=4)
    assert code.high[0] == pytest.approx(99.99) and code.low[0] == pytest.approx(1.01)
    assert code.encode([[10_000.0, 0.5]])[0] == 3 and code.encode([[-5.0, 0.5]])[0] == 0
    back = code.decode(code.encode([[50.0, 0.5]]))
    assert back is not None and back[0][1] == 0.5  # a dimension that never moves


@pytest.mark.parametrize(
    "text", ["", "left", "<act1>", "<act1><act2><act3>", "<act1> <act2>", "<act1><act4>", "ok <act1>"]
)
def test_a_text_that_is_no_whole_chunk_says_nothing(text: str) -> None:
    assert ActionCode("uniform", 1, (-1.0, -1.0), (1.0, 1.0), bins=4).read(text) is None


def test_chunks_of_another_size_or_without_numbers_are_refused() -> None:
    code = ActionCode("uniform", 1, (-1.0,), (1.0,))
    for chunk in ([[0.0], [0.0]], [[0.0, 0.0]], [[math.nan]]):
        with pytest.raises(DataError):
            code.encode(chunk)


@pytest.mark.parametrize("scheme", ["uniform", "fast"])
def test_a_code_survives_json(scheme: str) -> None:
    demonstrations = [[[0.1 * at, -0.2], [0.1 * at, 0.3]] for at in range(9)]
    code = code_of(demonstrations, scheme, num_merges=4)  # type: ignore[arg-type]
    assert ActionCode.from_dict(json.loads(json.dumps(code.as_dict()))) == code
