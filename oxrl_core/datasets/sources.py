"""Where rows are read one at a time: a file, or somebody else's rows. `scan` goes through all of them once, so that
every bad one is known, and gives each a key; `read` finds a row by its key.

.jsonl and .csv are read where they lie, by the byte at which a row begins. A parquet file can only be read a group of
rows at a time, up to millions: its rows (and those of .json) are copied, while they are scanned, into a file without a
name in cache/rows of the folder of all runs. The system deletes it with the process, however that ends.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from oxrl_core.datasets import files
from oxrl_core.errors import DataError, MachineError
from oxrl_core.types import Row

LAZY_BYTES = 64 * 1024**2  # what is larger is not kept in memory, where Python's objects are several times the size
MAX_OPEN = 64  # files of a folder with thousands of them

Found = tuple[Row | DataError, str]  # a row, or why there is none, and where it stands


class Source(Protocol):
    """Rows that are found by their keys."""

    def scan(self) -> Iterator[tuple[Row | DataError, str, int]]:
        """Every row or why there is none, where it stands, and its key."""
        ...

    def read(self, key: int) -> Found:
        """The row of that key, and where it stands."""
        ...


class OpenFiles:
    """The files that were read last: no more are open at once than a process may have."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, BufferedReader] = OrderedDict()

    def at(self, path: Path, start: int) -> BufferedReader:
        """The file, standing at that byte."""
        file = self._open.pop(path, None) or path.open("rb")
        self._open[path] = file
        if len(self._open) > MAX_OPEN:
            self._open.popitem(last=False)[1].close()
        file.seek(start)
        return file

    def __getstate__(self) -> dict[str, Any]:
        return {"_open": OrderedDict()}  # a file that is open does not go to another process


class _File:
    """A file that must stay as it was when it was read through."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stamp = self._stamp()

    def _stamp(self) -> tuple[int, int]:
        found = self.path.stat()
        return found.st_size, found.st_mtime_ns

    def _check(self) -> None:
        if self._stamp() != self.stamp:
            raise DataError(
                "the file has changed since the run read it through",
                where=str(self.path),
                next_step="leave the data of a run as it is, or start the run again",
            )


class JsonLines(_File):
    """A .jsonl file; a row's key is the byte at which its line begins."""

    def __init__(self, path: Path, opened: OpenFiles) -> None:
        super().__init__(path)
        self.opened = opened

    def scan(self) -> Iterator[tuple[Row | DataError, str, int]]:
        return ((row, f"{self.path}, line {line}", start) for row, line, start in files.jsonl_lines(self.path))

    def read(self, key: int) -> Found:
        self._check()
        place = f"{self.path}, byte {key}"
        line = self.opened.at(self.path, key).readline()
        return files.parse_line(line.removeprefix(files.BYTE_ORDER_MARK), place), place


class CsvLines(_File):
    """A .csv file; a row's key is the byte at which its first line begins."""

    def __init__(self, path: Path, opened: OpenFiles) -> None:
        super().__init__(path)
        self.opened = opened
        self.names: Sequence[str] = ()

    def scan(self) -> Iterator[tuple[Row | DataError, str, int]]:
        with self.path.open("rb") as lines:
            reader = files.CsvReader(lines, self.path)
            self.names = reader.names
            for row, line, start in reader.rows():
                yield row, f"{self.path}, line {line}", start

    def read(self, key: int) -> Found:
        self._check()
        place = f"{self.path}, byte {key}"
        rows = files.CsvReader(self.opened.at(self.path, key), self.path, self.names).rows()
        return next(rows)[0], place


class Spool:
    """A file without a name that rows are kept in for as long as this process lives."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: BinaryIO | None = None

    def write(self, content: tuple[Row, str]) -> int:
        """The byte at which it begins now."""
        try:
            if self._file is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._file = cast("BinaryIO", tempfile.TemporaryFile(dir=self.folder))  # noqa: SIM115 - it stays open
            start = self._file.tell()
            pickle.dump(content, self._file, protocol=5)
        except OSError as error:
            raise MachineError(
                f"rows cannot be kept on disk: {error.strerror}",
                where=str(self.folder),
                next_step="make room there, or name another folder of all runs in OXRL_HOME: parquet that does not "
                "fit into memory needs as much room as its rows, uncompressed",
            ) from error
        return start

    def read(self, start: int) -> tuple[Row, str]:
        """What was written there."""
        assert self._file is not None
        end = self._file.tell()
        self._file.seek(start)
        content = pickle.load(self._file)  # noqa: S301 - our own bytes, in a file that nobody else can name
        self._file.seek(end)
        return content


class Copied:
    """A file that is copied into the spool while it is scanned; a row's key is its place there."""

    def __init__(self, path: Path, spool: Spool) -> None:
        self.path = path
        self.spool = spool

    def scan(self) -> Iterator[tuple[Row | DataError, str, int]]:
        for row, place in files.READERS[self.path.suffix](self.path):
            yield row, place, 0 if isinstance(row, DataError) else self.spool.write((row, place))

    def read(self, key: int) -> Found:
        return self.spool.read(key)


class Others:
    """Rows that somebody else reads when they are asked for, as those of the hub are; a row's key is its index."""

    def __init__(self, rows: Sequence[Row | DataError], place_of: Callable[[int], str]) -> None:
        self.rows = rows
        self.place_of = place_of

    def scan(self) -> Iterator[tuple[Row | DataError, str, int]]:
        return ((row, self.place_of(index), index) for index, row in enumerate(self.rows))

    def read(self, key: int) -> Found:
        return self.rows[key], self.place_of(key)


def sources_of(paths: Sequence[Path]) -> list[Source]:
    """The sources of files."""
    opened = OpenFiles()
    spool = Spool(Path(os.environ.get("OXRL_HOME") or Path.home() / ".oxrl").expanduser().absolute() / "cache" / "rows")

    def source_of(path: Path) -> Source:
        if path.suffix == ".jsonl":
            return JsonLines(path, opened)
        return CsvLines(path, opened) if path.suffix == ".csv" else Copied(path, spool)

    return [source_of(path) for path in paths]
