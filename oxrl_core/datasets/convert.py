"""Rows of a known dataset of the hub, from the hub or from a local copy of it, each turned into our form."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from oxrl_core.datasets import files
from oxrl_core.datasets.lazy import IndexedRows
from oxrl_core.datasets.sources import LAZY_BYTES, Others, Source, sources_of
from oxrl_core.errors import DataError
from oxrl_core.types import Row


class Unusable(ValueError):
    """Why a row of the source cannot be used."""


def converted(
    convert: Callable[[Row], Row | None],
    *,
    name: str,
    hub_id: str,
    split: str,
    folder_variable: str,
    lazy_bytes: int = LAZY_BYTES,
) -> Sequence[Row | DataError]:
    """The rows of a split in our form, and for those that have no such form the reason; None leaves a row out.

    `hub_id` is `<id>` or `<id>:<configuration>`. Where the environment variable names a folder, it is a copy of the
    dataset: a clone of its repository, or files called after the split. From the hub, and of files larger than
    `lazy_bytes`, the rows are read once, and then again when they are asked for.
    """

    def tried(row: Row, place: str) -> Row | DataError | None:
        try:
            return convert(row)
        except Unusable as reason:
            return DataError(f"not a row of {name}: {reason}", place, "mend or remove the row, or take another copy")

    folder = os.environ.get(folder_variable)
    if folder:
        paths = files.files_of(_local(Path(folder).expanduser(), hub_id.partition(":")[2]), split)
        if sum(files.size_of(path) for path in paths) <= lazy_bytes:
            entries = (entry for path in paths for entry in files.READERS[path.suffix](path))
            found = (row if isinstance(row, DataError) else tried(row, place) for row, place in entries)
            return [one for one in found if one is not None]
        return _again(tried, sources_of(paths))
    return _again(tried, [Others(files.read_hub(hub_id, split), lambda index: f"{name} {split}, row {index}")])


def _again(
    tried: Callable[[Row, str], Row | DataError | None], sources: Sequence[Source]
) -> IndexedRows[Row | DataError]:
    """The rows, each converted again when it is asked for."""

    def finish(row: Row, number: int, place: str) -> Row | DataError:
        found = tried(row, place)
        return found if found is not None else DataError("the row is another one now", place, "start the run again")

    rows = IndexedRows[Row | DataError](finish)
    for source in sources:
        rows.add_source(source)
        for row, place, key in source.scan():
            found = row if isinstance(row, DataError) else tried(row, place)
            if isinstance(found, DataError):
                rows.add_instead(found)
            elif found is not None:
                rows.add_row(key, len(rows))
    return rows


def text_at(row: Row, *columns: str) -> str:
    """The text of the first of these columns that the row has."""
    for column in columns:
        value: Any = row.get(column)
        if isinstance(value, str) and value.strip():
            return value
    raise Unusable(f"it has no text in {' or '.join(columns)}")


def _local(folder: Path, configuration: str) -> Path:
    """The part of a local copy that holds the configuration: a folder or file of its name, else the whole."""
    if configuration and folder.is_dir():
        candidates = [folder / configuration, *(folder / f"{configuration}{suffix}" for suffix in files.READERS)]
        return next((path for path in candidates if path.exists()), folder)
    return folder
