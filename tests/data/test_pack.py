"""Packing and token budgets: every row once, none above its budget."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from oxrl_core.data.pack import pack, token_budget

lengths_and_limit = st.tuples(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 80))


@given(lengths_and_limit)
def test_a_budget_holds_every_row_once_and_is_kept_unless_a_row_is_longer(case: tuple[list[int], int]) -> None:
    lengths, limit = case
    batches = token_budget(lengths, limit)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= limit
    longest = [max(lengths[index] for index in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)


def test_rows_of_like_length_share_a_micro_batch() -> None:
    assert token_budget([3, 10, 3, 9], 20) == [[1, 3], [0, 2]]
    assert token_budget([100, 1, 1], 10) == [[0], [1, 2]]
    assert token_budget([], 10) == []


@given(lengths_and_limit)
def test_packed_rows_hold_every_example_once_within_the_limit(case: tuple[list[int], int]) -> None:
    lengths, limit = case
    rows = pack(lengths, limit)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    for row in rows:
        assert row == sorted(row)
        assert len(row) == 1 or sum(lengths[index] for index in row) <= limit
    assert rows == sorted(rows)
    # Two rows that would fit into one would have been one.
    loads = sorted(sum(lengths[index] for index in row) for row in rows)
    assert len(loads) < 2 or loads[0] + loads[1] > limit


def test_best_fit_decreasing_by_hand() -> None:
    # 6 and 5 open rows of 10; 4 fits best beside 6, 3 beside 5; 2 fits nowhere but beside 5 + 3
    assert pack([4, 6, 2, 5, 3], 10) == [[0, 1], [2, 3, 4]]
    assert pack([12, 3], 10) == [[0], [1]]
    assert pack([], 10) == []
