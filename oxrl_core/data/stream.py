"""Rows in training order, from any point on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar, cast

from oxrl_core.data.chat import RenderNotes
from oxrl_core.datasets.lazy import Endless
from oxrl_core.datasets.mixing import MixedRatio
from oxrl_core.errors import DataError
from oxrl_core.types import Progress, Row

Item = TypeVar("Item")


def rendered(rows: Iterable[Row], render: Callable[[Row], Item | list[Item] | None]) -> list[Item]:
    """All that the rows become: nothing, one item or several of each."""
    items: list[Item] = []
    for row in rows:
        found = render(row)
        if isinstance(found, list):
            items += cast("list[Item]", found)
        elif found is not None:
            items.append(found)
    return items


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
        if not rows_by_source or not all(len(rows) for rows in rows_by_source):
            raise DataError("a training dataset has no rows", "data.train", "check its file, split and limit")
        self.rows_by_source = rows_by_source
        endless = [isinstance(rows, Endless) for rows in rows_by_source]
        self.mix = MixedRatio([len(rows) for rows in rows_by_source], ratios, seed, shuffle, endless)
        self.progress = progress
        self._order: Sequence[tuple[int, int]] = ()
        self._order_epoch: int | None = None  # the epoch that _order belongs to

    @property
    def rows_per_epoch(self) -> int:
        """Rows of one epoch, all sources together."""
        return sum(self.mix.counts)

    def take(self, num_rows: int) -> list[Row]:
        """The next rows; `progress` then says where the stream stands. An epoch's end does not end it."""
        taken: list[Row] = []
        for _ in range(num_rows):
            taken.append(self.current())
            self.advance()
        return taken

    def current(self) -> Row:
        """The row that comes next; it stays so until `advance`."""
        source, index = self._current_order()[self.progress.row_cursor]
        return self.rows_by_source[source][index]

    def advance(self) -> None:
        """Goes on to the next row, at the end of an epoch to the first one of the next."""
        self.progress.row_cursor += 1
        self.progress.item_cursor = 0
        if self.progress.row_cursor >= len(self._current_order()):
            self.progress.epoch += 1
            self.progress.row_cursor = 0

    def epoch_rows(self, epoch: int) -> Iterator[Row]:
        """The rows of an epoch in order; the stream stays where it is."""
        return (self.rows_by_source[source][index] for source, index in self.mix.order(epoch))

    def _current_order(self) -> Sequence[tuple[int, int]]:
        if self._order_epoch != self.progress.epoch:
            self._order = self.mix.order(self.progress.epoch)
            self._order_epoch = self.progress.epoch
        return self._order


class RenderedStream(Generic[Item]):
    """A row stream seen through a renderer: prompts, examples, pairs. Rows that give None are skipped and counted.

    A renderer may give a list: the windows of a long text. They are items like any other; where a step ends between
    two of them, `progress.item_cursor` says how many of the row are taken, and the next step begins with the next one.
    """

    def __init__(
        self,
        rows: RowStream,
        render: Callable[[Row], Item | list[Item] | None],
        notes: RenderNotes | None = None,
        bad: Sequence[DataError] = (),
    ) -> None:
        self.rows = rows
        self.render = render
        self.notes = notes or RenderNotes()  # what the renderer did to rows so far
        self.bad = bad  # rows that could not be read, and why
        self.taken: list[str] = []  # the row of each item that the last `take` gave
        self._dropped_in_turn = 0
        self._rendered: tuple[Row, list[Item]] | None = None  # the row that is taken in part: it is rendered once

    @property
    def rows_per_epoch(self) -> int:
        """Rows of one epoch, those that are dropped included."""
        return self.rows.rows_per_epoch

    @property
    def num_dropped(self) -> int:
        """Rows that became nothing."""
        return self.counts.get("dropped", 0)

    @property
    def counts(self) -> dict[str, int]:
        """Rows that were dropped or changed in any way, by what was done to them, over the whole run."""
        return self.rows.progress.row_counts

    def count_items(self) -> int:
        """Items of the first epoch, by rendering all of its rows: where rows give several, rows are no measure."""
        counts, first = self.notes.counts.copy(), dict(self.notes.first)
        number = sum(len(rendered([row], self.render)) for row in self.rows.epoch_rows(0))
        self.notes.counts, self.notes.first = counts, first  # they count what training takes
        return number

    def take(self, num_items: int) -> list[Item]:
        """The next items, as many as asked for."""
        items: list[Item] = []
        self.taken = []
        progress = self.rows.progress
        before = self.notes.counts.copy()
        while len(items) < num_items:
            row = self.rows.current()
            if self._rendered is None or self._rendered[0]["id"] != row["id"]:  # a lazy row is another object each time
                self._rendered = row, rendered([row], self.render)
            of_row = self._rendered[1]
            part = of_row[progress.item_cursor : progress.item_cursor + num_items - len(items)]
            items += part
            self.taken += [str(row["id"])] * len(part)
            progress.item_cursor += len(part)
            if progress.item_cursor >= len(of_row):
                self.rows.advance()
                self._rendered = None
            self._count_dropped(row, of_row)
        for kind, number in (self.notes.counts - before).items():
            self._count(kind, number)
        return items

    def _count(self, kind: str, number: int = 1) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + number

    def _count_dropped(self, row: Row, of_row: list[Item]) -> None:
        if of_row:
            self._dropped_in_turn = 0
            return
        self._count("dropped")
        self._dropped_in_turn += 1
        if self._dropped_in_turn > 2 * self.rows_per_epoch:  # else a run whose rows are all too long would never end
            raise DataError(
                "all rows are too long, empty or refused by the tokenizer: "
                f"{self._dropped_in_turn} in turn were dropped",
                where=f"data.train, last {row['id']}",
                next_step="raise data.max_prompt_tokens (RL) or data.max_length (supervised); a pair must differ, "
                "and a completion have a token that the model knows",
            )
