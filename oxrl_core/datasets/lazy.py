"""Rows that are made when they are asked for: of a generator without end, or of sources that do not fit into memory."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar, overload

from oxrl_core.datasets.sources import Source
from oxrl_core.errors import DataError
from oxrl_core.types import Row

Kept = TypeVar("Kept")  # a row, or a row or why there is none


class Endless(Sequence[Row]):
    """Rows without end: row k is the same whoever asks for it, for any k. Its length is that of one epoch."""

    def __init__(self, make: Callable[[int], Row], epoch_rows: int) -> None:
        self.make = make
        self.epoch_rows = epoch_rows

    def __len__(self) -> int:
        return self.epoch_rows

    def __iter__(self) -> Iterator[Row]:
        return (self.make(index) for index in range(self.epoch_rows))

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        if isinstance(index, slice):
            return [self.make(at) for at in range(*index.indices(self.epoch_rows))]
        return self.make(index)


class IndexedRows(Sequence[Kept], Generic[Kept]):
    """The rows of sources, of which only the places are in memory, 20 bytes each; a row is read when it is asked for.

    `finish` makes of a source's row, its number and where it stands the row that is given.
    """

    def __init__(self, finish: Callable[[Row, int, str], Kept]) -> None:
        self.finish = finish
        self.sources: list[Source] = []
        self.errors: dict[int, Kept] = {}  # what stands in the place of a row that has none
        self.source_of_row = array("I")
        self.keys = array("Q")
        self.numbers = array("Q")

    def add_source(self, source: Source) -> None:
        """The rows that are added next are of this source."""
        self.sources.append(source)

    def add_row(self, key: int, number: int) -> None:
        """Remembers the row that the last source finds under that key."""
        self.source_of_row.append(len(self.sources) - 1)
        self.keys.append(key)
        self.numbers.append(number)

    def add_instead(self, error: Kept) -> None:
        """Remembers why there is no row."""
        self.errors[len(self.keys)] = error
        self.add_row(0, 0)

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, index: int) -> Kept: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Kept]: ...
    def __getitem__(self, index: int | slice) -> Kept | Sequence[Kept]:
        if isinstance(index, slice):
            return [self._row(at) for at in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._row(index % len(self))

    def _row(self, index: int) -> Kept:
        if index in self.errors:
            return self.errors[index]
        row, place = self.sources[self.source_of_row[index]].read(self.keys[index])
        if isinstance(row, DataError):
            raise row
        return self.finish(row, self.numbers[index], place)
