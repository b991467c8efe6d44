"""The order of rows: ratios, coverage, and any epoch from its number alone."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxrl_core.datasets.mixing import MixedRatio
from oxrl_core.errors import ConfigError

sources = st.lists(st.tuples(st.integers(1, 40), st.floats(0.1, 10)), min_size=1, max_size=4)


def test_one_source_in_order_is_itself() -> None:
    assert list(MixedRatio([4], [1.0], seed=0, shuffle=False).order(3)) == [(0, 0), (0, 1), (0, 2), (0, 3)]


def test_ratios_are_exact_over_an_epoch_and_even_within_it() -> None:
    mix = MixedRatio([6, 6], [1.0, 3.0], seed=0, shuffle=False)
    order = mix.order(0)
    assert Counter(source for source, _ in order) == {0: 3, 1: 9}
    for start in (0, 4, 8):
        assert Counter(source for source, _ in order[start : start + 4]) == {0: 1, 1: 3}


@given(sources, st.integers(0, 5), st.booleans())
def test_counts_are_the_ratios_to_within_one_row(pairs: list[tuple[int, float]], epoch: int, shuffle: bool) -> None:
    lengths, ratios = [length for length, _ in pairs], [ratio for _, ratio in pairs]
    mix = MixedRatio(lengths, ratios, seed=1, shuffle=shuffle)
    order = mix.order(epoch)
    total = sum(lengths)
    counts = Counter(source for source, _ in order)
    for source, ratio in enumerate(ratios):
        share = total * ratio / sum(ratios)
        assert counts[source] >= 1
        assert abs(counts[source] - max(1.0, share)) <= len(ratios)
    if all(total * ratio / sum(ratios) >= 1 for ratio in ratios):
        assert len(order) == total
        assert all(abs(counts[source] - total * ratio / sum(ratios)) < 1 for source, ratio in enumerate(ratios))
    assert all(0 <= index < lengths[source] for source, index in order)


@given(sources, st.booleans())
def test_no_row_is_favoured_over_many_epochs(pairs: list[tuple[int, float]], shuffle: bool) -> None:
    lengths, ratios = [length for length, _ in pairs], [ratio for _, ratio in pairs]
    mix = MixedRatio(lengths, ratios, seed=2, shuffle=shuffle)
    drawn = Counter(row for epoch in range(4) for row in mix.order(epoch))
    for source, length in enumerate(lengths):
        times = [drawn[(source, index)] for index in range(length)]
        assert max(times) - min(times) <= 1


@given(st.integers(1, 60), st.integers(0, 100), st.integers(0, 9))
def test_a_single_source_gives_each_row_once_an_epoch(length: int, seed: int, epoch: int) -> None:
    order = MixedRatio([length], [0.7], seed=seed, shuffle=True).order(epoch)
    assert sorted(order) == [(0, index) for index in range(length)]


def test_order_depends_on_seed_and_epoch_and_on_nothing_else() -> None:
    import random

    mix = MixedRatio([50], [1.0], seed=0, shuffle=True)
    first = mix.order(0)
    random.seed(999)
    assert MixedRatio([50], [1.0], seed=0, shuffle=True).order(0) == first
    assert mix.order(1) != first
    assert MixedRatio([50], [1.0], seed=1, shuffle=True).order(0) != first


@pytest.mark.parametrize(
    ("lengths", "ratios"), [([0], [1.0]), ([3], [0.0]), ([3], [-1.0]), ([3], [1.0, 2.0]), ([], [])]
)
def test_a_mix_of_nothing_is_refused(lengths: list[int], ratios: list[float]) -> None:
    with pytest.raises(ConfigError):
        MixedRatio(lengths, ratios, seed=0, shuffle=True)


@settings(deadline=None)
@given(sources, st.integers(0, 40), st.integers(2, 4))
def test_every_rank_computes_the_same_order_and_a_resume_at_any_row_goes_on(
    pairs: list[tuple[int, float]], position: int, num_ranks: int
) -> None:
    lengths, ratios = [length for length, _ in pairs], [ratio for _, ratio in pairs]

    def rows_from(start: int, count: int) -> list[tuple[int, int]]:
        mix = MixedRatio(lengths, ratios, seed=3, shuffle=True)  # each rank, each resume has its own
        size = sum(mix.counts)
        return [mix.order((start + at) // size)[(start + at) % size] for at in range(count)]

    whole = rows_from(0, position + 12)
    assert rows_from(position, 12) == whole[position:]
    # A step's rows are dealt out to the ranks: together they are what one rank takes.
    step = whole[position:]
    dealt = [rows_from(position, 12)[rank::num_ranks] for rank in range(num_ranks)]
    assert sorted(row for rows in dealt for row in rows) == sorted(step)


def test_whole_ratios_hold_exactly_over_every_epoch() -> None:
    mix = MixedRatio([30, 50, 20], [0.5, 0.3, 0.2], seed=0, shuffle=True)
    for epoch in range(5):
        assert Counter(source for source, _ in mix.order(epoch)) == {0: 50, 1: 30, 2: 20}


def test_a_source_without_end_gives_each_row_once() -> None:
    mix = MixedRatio([4, 3], [1.0, 1.0], seed=0, shuffle=True, endless=[True, False])
    drawn = [index for epoch in range(6) for source, index in mix.order(epoch) if source == 0]
    assert drawn == list(range(len(drawn)))
