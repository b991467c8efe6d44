"""Rows of local files and folders, and of the hub. Every error names the file, the line and the reason."""

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

SPLIT_NAMES = ("train", "test", "validation", "valid", "val", "dev", "eval")


def read_path(path: Path, split: str, limit: int | None = None) -> tuple[list[Row], list[str]]:
    """The rows of a file, or of a folder's files of that split, and for each where it stands."""
    rows: list[Row] = []
    places: list[str] = []
    for file in files_of(path, split):
        with_places = READERS[file.suffix](file)
        for row, place in itertools.islice(with_places, None if limit is None else limit - len(rows)):
            rows.append(row)
            places.append(place)
    return rows, places


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


def _read_jsonl(path: Path) -> Iterator[tuple[Row, str]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(_decoded(lines, path), start=1):
            if line.strip():
                place = f"{path}, line {number}"
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise DataError(
                        f"the line is not JSON: {error.msg} at column {error.colno}", place, "mend or remove the line"
                    ) from error
                yield _mapping(row, place), place


def _read_json(path: Path) -> Iterator[tuple[Row, str]]:
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


def _read_csv(path: Path) -> Iterator[tuple[Row, str]]:
    csv.field_size_limit(sys.maxsize)  # completions are longer than the 128 KiB that csv allows
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(_decoded(file, path), strict=True)
        try:
            for row in reader:
                place = f"{path}, line {reader.line_num}"
                if None in row or None in row.values():
                    raise DataError(
                        f"the line has not the {len(reader.fieldnames or ())} columns of the first one",
                        where=place,
                        next_step="quote fields that hold commas or line breaks",
                    )
                yield dict(row), place
        except csv.Error as error:
            place = f"{path}, line {reader.line_num}"
            raise DataError(f"the line is not CSV: {error}", place, "mend the line") from error


def _read_parquet(path: Path) -> Iterator[tuple[Row, str]]:
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


READERS: dict[str, Callable[[Path], Iterator[tuple[Row, str]]]] = {
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


def _mapping(row: Any, place: str) -> Row:
    if not isinstance(row, dict):
        raise DataError(f"the row is no object but {type(row).__name__}", place, 'write rows as {"prompt": ...}')
    return cast("Row", row)
