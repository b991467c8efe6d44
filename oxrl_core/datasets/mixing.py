"""The order in which rows of several datasets are drawn."""

from __future__ import annotations

import random
from collections.abc import Sequence

from oxrl_core.errors import ConfigError


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

    def order(self, epoch: int) -> list[tuple[int, int]]:
        """(source, index in the source) of every row of an epoch, the sources evenly interleaved."""
        # Row k of n stands at (k + 1/2) / n of the epoch: any stretch of it holds the ratio to within one row.
        places = sorted(((k + 0.5) / count, source) for source, count in enumerate(self.counts) for k in range(count))
        chains = [iter(self._stretch(source, epoch)) for source in range(len(self.counts))]
        return [(source, next(chains[source])) for _, source in places]

    def _stretch(self, source: int, epoch: int) -> list[int]:
        """The part of a source's chain of passes that falls into an epoch."""
        length, count = self.lengths[source], self.counts[source]
        start = epoch * count
        if self.endless[source]:
            return list(range(start, start + count))
        passes = range(start // length, -(-(start + count) // length))
        chain = [index for number in passes for index in self._pass(source, number)]
        offset = start - passes.start * length
        return chain[offset : offset + count]

    def _pass(self, source: int, number: int) -> list[int]:
        indices = list(range(self.lengths[source]))
        if self.shuffle:
            # A generator of its own for each pass: nothing that else draws random numbers can change the data's order.
            random.Random(f"{self.seed}/{source}/{number}").shuffle(indices)
        return indices


def _shares(total: int, ratios: Sequence[float]) -> list[int]:
    """Whole numbers in the ratios that sum to the total (largest remainder), at least 1 each."""
    exact = [total * ratio / sum(ratios) for ratio in ratios]
    counts = [max(1, int(share)) for share in exact]
    by_remainder = sorted(range(len(ratios)), key=lambda source: (counts[source] - exact[source], source))
    for source in by_remainder[: max(0, total - sum(counts))]:
        counts[source] += 1
    return counts
