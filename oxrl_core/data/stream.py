"""Rows in training order, from any point on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from oxrl_core.datasets.mixing import MixedRatio
from oxrl_core.errors import DataError
from oxrl_core.types import Progress, Row

Item = TypeVar("Item")


class RowStream:
    """An endless stream of (mixed, shuffled) rows. Where it stands is in `progress` alone: a resume needs no more."""

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


class RenderedStream(Generic[Item]):
    """A row stream seen through a renderer: prompts or examples. Rows that give None are skipped and counted."""

    def __init__(self, rows: RowStream, render: Callable[[Row], Item | None]) -> None:
        self.rows = rows
        self.render = render
        self.num_dropped = 0

    @property
    def rows_per_epoch(self) -> int:
        """Rows of one epoch, those that are dropped included."""
        return self.rows.rows_per_epoch

    def take(self, num_items: int) -> list[Item]:
        """The next items, as many as asked for."""
        items: list[Item] = []
        dropped_in_turn = 0
        while len(items) < num_items:
            for row in self.rows.take(num_items - len(items)):
                item = self.render(row)
                if item is not None:
                    items.append(item)
                    dropped_in_turn = 0
                    continue
                self.num_dropped += 1
                dropped_in_turn += 1
                if dropped_in_turn > 2 * self.rows_per_epoch:  # else a run whose rows are all too long would never end
                    raise DataError(
                        f"all rows are too long: {dropped_in_turn} in turn were dropped",
                        where=f"data.train, last {row['id']}",
                        next_step="raise data.max_prompt_tokens (RL) or data.max_length (supervised)",
                    )
        return items
