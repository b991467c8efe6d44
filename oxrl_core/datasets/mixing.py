"""The order in which rows of several datasets are drawn."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator, Sequence
from heapq import merge
from typing import overload

from oxrl_core.errors import ConfigError


class Order(Sequence[tuple[int, int]]):
    """Pairs of numbers in 12 bytes each: an epoch may have millions."""

    def __init__(self, sources: array[int], indices: array[int]) -> None:
        self.sources = sources
        self.indices = indices

    def __len__(self) -> int:
        return len(self.sources)

    @overload
    def __getitem__(self, index: int) -> tuple[int, int]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[tuple[int, int]]: ...
    def __getitem__(self, index: int | slice) -> tuple[int, int] | Sequence[tuple[int, int]]:
        if isinstance(index, slice):
            return Order(self.sources[index], self.indices[index])
        return self.sources[index], self.indices[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Order) and (self.sources, self.indices) == (other.sources, other.indices)

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # as of a list


class MixedRatio:
    """An endless draw from several sources in fixed ratios, cut into epochs of as many rows as all sources have.

    Each source is an endless chain of (shuffled) passes over its rows, and an epoch takes the next stretch of each
    chain: every row of a source comes once in a pass. Any epoch is computed from its number alone. A source without
    end gives its rows in their order, and none of them twice.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        ratios: Sequence[float],
        seed: int,
        shuffle: bool,
        endless: Sequence[bool] | None = None,
    ) -> None:
        if len(lengths) != len(ratios) or not lengths or min(lengths) < 1 or min(ratios) <= 0:
            raise ConfigError(
                f"a mix needs rows and a ratio of each dataset; lengths {list(lengths)}, ratios {list(ratios)}",
                where="data.train",
                next_step="give each dataset a ratio above 0",
            )
        self.lengths = list(lengths)
        self.seed = seed
        self.shuffle = shuffle
        self.endless = list(endless) if endless is not None else [False] * len(lengths)
        self.counts = _shares(sum(lengths), ratios)  # rows of each source in one epoch

    def order(self, epoch: int) -> Order:
        """(source, index in the source) of every row of an epoch, the sources evenly interleaved."""
        # Row k of n stands at (k + 1/2) / n of the epoch: any stretch of it holds the ratio to within one row.
        places = [_places(source, count) for source, count in enumerate(self.counts)]
        chains = [iter(self._stretch(source, epoch)) for source in range(len(self.counts))]
        sources, indices = array("I"), array("Q")
        for _, source in merge(*places):
            sources.append(source)
            indices.append(next(chains[source]))
        return Order(sources, indices)

    def _stretch(self, source: int, epoch: int) -> Sequence[int]:
        """The part of a source's chain of passes that falls into an epoch."""
        length, count = self.lengths[source], self.counts[source]
        start = epoch * count
        if self.endless[source]:
            return range(start, start + count)
        chain = array("Q")
        passes = range(start // length, -(-(start + count) // length))
        for number in passes:
            chain.extend(self._pass(source, number))
        offset = start - passes.start * length
        return chain[offset : offset + count]

    def _pass(self, source: int, number: int) -> array[int]:
        indices = array("Q", range(self.lengths[source]))
        if self.shuffle:
            # A generator of its own for each pass: nothing that else draws random numbers can change the data's order.
            random.Random(f"{self.seed}/{source}/{number}").shuffle(indices)
        return indices


def _places(source: int, count: int) -> Iterator[tuple[float, int]]:
    return (((k + 0.5) / count, source) for k in range(count))


def _shares(total: int, ratios: Sequence[float]) -> list[int]:
    """Whole numbers in the ratios that sum to the total (largest remainder), at least 1 each."""
    exact = [total * ratio / sum(ratios) for ratio in ratios]
    counts = [max(1, int(share)) for share in exact]
    by_remainder = sorted(range(len(ratios)), key=lambda source: (counts[source] - exact[source], source))
    for source in by_remainder[: max(0, total - sum(counts))]:
        counts[source] += 1
    return counts
