"""Rows of local files and folders, and of the hub. Every error names the file, the line and the reason.

A line that cannot be read is yielded as the error that says why: whoever reads decides whether it ends the run. What
makes the whole file unreadable is raised.
"""

from __future__ import annotations

import csv
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from oxrl_core.errors import DataError, MachineError
from oxrl_core.suggest import did_you_mean
from oxrl_core.types import Row

Entry = tuple[Row | DataError, str]  # a row, or why there is none, and where it stands

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
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
    csv.field_size_limit(sys.maxsize)  # completions are longer than the 128 KiB that csv allows
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(_decoded(file, path), strict=True)
        try:
            names = reader.fieldnames or ()
        except csv.Error as error:
            raise DataError(f"the line is not CSV: {error}", f"{path}, line 1", "mend the line") from error
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                place = f"{path}, line {reader.reader.line_num}"
                yield DataError(f"the line is not CSV: {error}", place, "mend the line"), place
                continue
            place = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                what = f"the line has not the {len(names)} columns of the first one"
                yield DataError(what, place, "quote fields that hold commas or line breaks"), place
            else:
                yield dict(row), place


def _read_parquet(path: Path) -> Iterator[Entry]:
    try:
        # Heavy, and not in the light core. It ships no types.
        import pyarrow as pa  # type: ignore[import-untyped]
        import pyarrow.parquet as parquet  # type: ignore[import-untyped]
    except ImportError as error:
        raise MachineError("reading parquet needs pyarrow", str(path), 'uv pip install "oxrl[train]"') from error
    arrow_error: type[Exception] = cast("Any", pa).ArrowException
    index = 0
    try:
        file: Any = parquet.ParquetFile(path)
        for batch in file.iter_batches():
            for row in batch.to_pylist():
                yield row, f"{path}, row {index}"
                index += 1
    except (arrow_error, OSError) as error:
        raise DataError(f"the file is not parquet: {error}", str(path), "write it again") from error


READERS: dict[str, Callable[[Path], Iterator[Entry]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def read_hub(name: str, split: str) -> Sequence[Row]:
    """The rows of `<id>` or `<id>:<configuration>` on the Hugging Face hub."""
    try:
        import datasets  # type: ignore[import-untyped]  # heavy, and not in the light core
    except ImportError as error:
        raise MachineError("the hub needs the package datasets", name, 'uv pip install "oxrl[train]"') from error
    hub_id, _, configuration = name.partition(":")
    library: Any = datasets
    try:
        return list(library.load_dataset(hub_id, configuration or None, split=split))
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
