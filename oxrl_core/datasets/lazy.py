"""Rows that are made when they are asked for: of a generator without end, or of files that do not fit into memory."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any, overload

from oxrl_core.datasets import files
from oxrl_core.errors import DataError
from oxrl_core.types import Row


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


class FileRows(Sequence[Row]):
    """The rows of .jsonl files, of which only the places are in memory; a row is read when it is asked for."""

    def __init__(self, finish: Callable[[Row, int, str], Row]) -> None:
        self.finish = finish  # (row, number of the row, where it stands) -> the row in one form
        self.paths: list[Path] = []
        self.stamps: list[tuple[int, int]] = []  # size and time of each file when it was read through
        self.file_of_row = array("H")
        self.starts = array("Q")
        self.numbers = array("Q")
        self._open: dict[int, BufferedReader] = {}

    def add_file(self, path: Path) -> int:
        """The number of a file whose rows come next."""
        found = path.stat()
        self.paths.append(path)
        self.stamps.append((found.st_size, found.st_mtime_ns))
        return len(self.paths) - 1

    def add_row(self, file: int, start: int, number: int) -> None:
        """Remembers the row that begins at that byte of the file."""
        self.file_of_row.append(file)
        self.starts.append(start)
        self.numbers.append(number)

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        if isinstance(index, slice):
            return [self._row(at) for at in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._row(index)

    def _row(self, index: int) -> Row:
        file, number = self.file_of_row[index], self.numbers[index]
        path = self.paths[file]
        found = path.stat()
        if (found.st_size, found.st_mtime_ns) != self.stamps[file]:
            raise DataError(
                "the file has changed since the run read it through",
                where=str(path),
                next_step="leave the data of a run as it is, or start the run again",
            )
        if file not in self._open:
            self._open[file] = path.open("rb")
        self._open[file].seek(self.starts[index])
        place = f"{path}, byte {self.starts[index]}"
        line = self._open[file].readline()
        row = files.parse_line(line.removeprefix(files.BYTE_ORDER_MARK), place)
        if isinstance(row, DataError):
            raise row
        return self.finish(row, number, place)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}  # a file that is open does not go to another process
