"""Rows in training order, from any point on."""

from __future__ import annotations

from collections.abc import Sequence

from oxrl_core.datasets.mixing import MixedRatio
from oxrl_core.errors import DataError
from oxrl_core.types import Progress, Row


class RowStream:
    """An endless stream of (mixed, shuffled) rows. Where it stands is in `progress` alone, so a resume needs no more."""

    def __init__(
        self,
        rows_by_source: Sequence[Sequence[Row]],
        ratios: Sequence[float],
        seed: int,
        shuffle: bool,
        progress: Progress,
    ) -> None:
        if not rows_by_source or not all(rows_by_source):
            raise DataError("a training dataset has no rows", "data.train", "check its file, split and limit")
        self.rows_by_source = rows_by_source
        self.mix = MixedRatio([len(rows) for rows in rows_by_source], ratios, seed, shuffle)
        self.progress = progress
        self._order: list[tuple[int, int]] = []
        self._order_epoch: int | None = None  # the epoch that _order belongs to

    @property
    def rows_per_epoch(self) -> int:
        """Rows of one epoch, all sources together."""
        return sum(self.mix.counts)

    def take(self, num_rows: int) -> list[Row]:
        """The next rows; `progress` then says where the stream stands. An epoch's end does not end it."""
        taken: list[Row] = []
        while len(taken) < num_rows:
            order = self._current_order()
            start = self.progress.row_cursor
            part = order[start : start + num_rows - len(taken)]
            taken += [self.rows_by_source[source][index] for source, index in part]
            self.progress.row_cursor += len(part)
            if self.progress.row_cursor >= len(order):
                self.progress.epoch += 1
                self.progress.row_cursor = 0
        return taken

    def _current_order(self) -> list[tuple[int, int]]:
        if self._order_epoch != self.progress.epoch:
            self._order = self.mix.order(self.progress.epoch)
            self._order_epoch = self.progress.epoch
        return self._order
