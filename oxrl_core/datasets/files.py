"""Rows of local files and folders, and of the hub. Every error names the file, the line and the reason.

A line that cannot be read is yielded as the error that says why: whoever reads decides whether it ends the run. What
makes the whole file unreadable is raised.
"""

from __future__ import annotations

import csv
import itertools
import json
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from oxrl_core.errors import DataError, MachineError
from oxrl_core.suggest import did_you_mean
from oxrl_core.types import Row

Entry = tuple[Row | DataError, str]  # a row, or why there is none, and where it stands

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
PARQUET_BUFFER = 1 << 20  # bytes of a column that are read at once
PARQUET_ROWS = 256
SPLIT_NAMES = ("train", "test", "validation", "valid", "val", "dev", "eval")


def read_path(path: Path, split: str, limit: int | None = None) -> Iterator[Entry]:
    """The rows of a file, or of a folder's files of that split, each with where it stands."""
    entries = (entry for file in files_of(path, split) for entry in READERS[file.suffix](file))
    return entries if limit is None else itertools.islice(entries, limit)


def files_of(path: Path, split: str) -> list[Path]:
    """The file itself, or a folder's files whose name begins with the split."""
    if path.is_dir():
        return _files_of_folder(path, split)
    if not path.exists():
        near = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(
            f"there is no such file or folder.{did_you_mean(path.name, near)}",
            where=str(path),
            next_step="check data.train and data.eval; a relative path starts at the working directory",
        )
    if path.suffix not in READERS:
        raise DataError(
            f"a dataset file cannot end in {path.suffix or 'nothing'!r}",
            where=str(path),
            next_step=f"convert it to one of: {', '.join(READERS)}",
        )
    return [path]


def _files_of_folder(folder: Path, split: str) -> list[Path]:
    places = [folder, folder / split, folder / "data"]
    found = [file for place in places if place.is_dir() for file in sorted(place.iterdir()) if file.suffix in READERS]
    # By the whole word first: beside train_prefs.parquet a folder may have train_sft.parquet.
    of_split = [file for file in found if "_" in split and file.name.startswith(split)]
    if not of_split:
        of_split = [file for file in found if _split_of(file) == split or file.parent == folder / split]
    if not of_split and split == "train":
        of_split = [file for file in found if _split_of(file) not in SPLIT_NAMES]
    if not of_split:
        names = ", ".join(file.name for file in found[:10]) or f"no {', '.join(READERS)} at all"
        raise DataError(
            f"the folder has no file of the split {split!r}; it has: {names}",
            where=str(folder),
            next_step=f"call the file {split}.jsonl, or name a split that is there",
        )
    return of_split


def _split_of(file: Path) -> str:
    """`train` of `train.jsonl` and of `train-00000-of-00002.parquet`."""
    return file.name.replace("_", "-").replace(".", "-").split("-", 1)[0].lower()


def _read_jsonl(path: Path) -> Iterator[Entry]:
    for row, number, _ in jsonl_lines(path):
        yield row, f"{path}, line {number}"


def jsonl_lines(path: Path) -> Iterator[tuple[Row | DataError, int, int]]:
    """Each line that is not blank, with its number from 1 and the byte at which it begins."""
    start = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            text = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
            if text.strip():
                yield parse_line(text, f"{path}, line {number}"), number, start
            start += len(line)


def parse_line(line: bytes, place: str) -> Row | DataError:
    """The row that the line of a .jsonl file holds, or why it holds none."""
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return DataError(f"the line is not UTF-8: {error.reason} at byte {error.start}", place, "convert it to UTF-8")
    except json.JSONDecodeError as error:
        return DataError(f"the line is not JSON: {error.msg} at column {error.colno}", place, "mend or remove the line")
    except RecursionError:
        return DataError("the line is not JSON: it is nested too deep", place, "mend or remove the line")
    return _mapping(row, place)


def _read_json(path: Path) -> Iterator[Entry]:
    with path.open(encoding="utf-8-sig") as file:
        text = "".join(_decoded(file, path))
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"the file is not JSON: {error.msg}",
            where=f"{path}, line {error.lineno}",
            next_step="one JSON object per line belongs in a .jsonl file",
        ) from error
    if not isinstance(rows, list):
        raise DataError("the file is no list of rows", str(path), "write a JSON list of objects")
    for index, row in enumerate(cast("list[Any]", rows)):
        place = f"{path}, row {index}"
        yield _mapping(row, place), place


def _read_csv(path: Path) -> Iterator[Entry]:
    with path.open("rb") as lines:
        for row, line, _ in CsvReader(lines, path).rows():
            yield row, f"{path}, line {line}"


class CsvReader:
    """The rows of a .csv file from where it stands, of which the byte is known at which each begins."""

    def __init__(self, lines: BinaryIO, path: Path, names: Sequence[str] | None = None) -> None:
        """`names`: the columns, where the file stands behind its first line."""
        csv.field_size_limit(sys.maxsize)  # completions are longer than the 128 KiB that csv allows
        self.lines = lines
        self.path = path
        self.start = lines.tell()  # of the line that is read next
        self._reader = csv.reader(self._text(), strict=True)
        try:
            self.names: Sequence[str] = names or next(self._reader, list[str]())
        except csv.Error as error:
            raise DataError(f"the line is not CSV: {error}", f"{path}, line 1", "mend the line") from error

    def rows(self) -> Iterator[tuple[Row | DataError, int, int]]:
        """Each row, the number of its last line, and the byte at which its first one begins."""
        while True:
            start = self.start
            try:
                fields = next(self._reader)
            except StopIteration:
                return
            except csv.Error as error:
                line = self._reader.line_num
                yield (
                    DataError(f"the line is not CSV: {error}", f"{self.path}, line {line}", "mend the line"),
                    line,
                    start,
                )
                continue
            line = self._reader.line_num
            if not fields:  # an empty line
                continue
            if len(fields) == len(self.names):
                yield dict(zip(self.names, fields, strict=True)), line, start
            else:
                what = f"the line has not the {len(self.names)} columns of the first one"
                fix = "quote fields that hold commas or line breaks"
                yield DataError(what, f"{self.path}, line {line}", fix), line, start

    def _text(self) -> Iterator[str]:
        for line in self.lines:
            begin = self.start
            self.start += len(line)
            content = line.removeprefix(BYTE_ORDER_MARK) if begin == 0 else line
            try:
                yield content.decode("utf-8")
            except UnicodeDecodeError as error:
                place = f"{self.path}, byte {begin + error.start}"
                raise DataError(f"the file is not UTF-8: {error.reason}", place, "convert it to UTF-8") from error


def _read_parquet(path: Path) -> Iterator[Entry]:
    index = 0
    with _parquet(path) as parquet:
        # Not a group of rows at once, which may be the whole file: page by page, and few rows as Python's objects.
        file: Any = parquet.ParquetFile(path, buffer_size=PARQUET_BUFFER, pre_buffer=False)
        for batch in file.iter_batches(batch_size=PARQUET_ROWS):
            for row in batch.to_pylist():
                yield row, f"{path}, row {index}"
                index += 1


@contextmanager
def _parquet(path: Path) -> Generator[Any]:
    """The library that reads parquet; what it raises says that the file is none."""
    try:
        # Heavy, and not in the light core. It ships no types.
        import pyarrow as pa  # type: ignore[import-untyped]
        import pyarrow.parquet as parquet  # type: ignore[import-untyped]
    except ImportError as error:
        raise MachineError("reading parquet needs pyarrow", str(path), 'uv pip install "oxrl[train]"') from error
    arrow_error: type[Exception] = cast("Any", pa).ArrowException
    try:
        yield cast("Any", parquet)
    except (arrow_error, OSError) as error:
        raise DataError(f"the file is not parquet: {error}", str(path), "write it again") from error


READERS: dict[str, Callable[[Path], Iterator[Entry]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def size_of(path: Path) -> int:
    """Bytes of the rows of a file: of parquet, which is compressed, those that it says it becomes."""
    if path.suffix != ".parquet":
        return path.stat().st_size
    with _parquet(path) as parquet:
        metadata: Any = parquet.read_metadata(path)
        return sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))


def read_hub(name: str, split: str) -> Sequence[Row]:
    """The rows of `<id>` or `<id>:<configuration>` on the Hugging Face hub; each is read from disk when asked for."""
    try:
        import datasets  # type: ignore[import-untyped]  # heavy, and not in the light core
    except ImportError as error:
        raise MachineError("the hub needs the package datasets", name, 'uv pip install "oxrl[train]"') from error
    hub_id, _, configuration = name.partition(":")
    library: Any = datasets
    try:
        return library.load_dataset(hub_id, configuration or None, split=split)
    except Exception as error:  # the library raises a dozen kinds: offline, gated, no such id, split or configuration
        reason = str(error).strip().partition("\n")[0]
        raise DataError(
            f"the hub's dataset cannot be loaded: {type(error).__name__}: {reason}",
            where=f"hub:{name}, split {split}",
            next_step="check its id (hub:<id>[:<configuration>]), the network and HF_TOKEN; or name a local copy",
        ) from error


def _decoded(lines: Iterator[str], path: Path) -> Iterator[str]:
    try:
        yield from lines
    except UnicodeDecodeError as error:
        place = f"{path}, byte {error.start}"
        raise DataError(f"the file is not UTF-8: {error.reason}", place, "convert it to UTF-8") from error


def _mapping(row: Any, place: str) -> Row | DataError:
    if not isinstance(row, dict):
        return DataError(f"the row is no object but {type(row).__name__}", place, 'write rows as {"prompt": ...}')
    return cast("Row", row)
