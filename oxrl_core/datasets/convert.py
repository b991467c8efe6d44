"""Rows of a known dataset of the hub, from the hub or from a local copy of it, each turned into our form."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from oxrl_core.datasets import files
from oxrl_core.errors import DataError
from oxrl_core.types import Row


class Unusable(ValueError):
    """Why a row of the source cannot be used."""


def converted(
    convert: Callable[[Row], Row | None], *, name: str, hub_id: str, split: str, folder_variable: str
) -> list[Row | DataError]:
    """The rows of a split in our form, and for those that have no such form the reason; None leaves a row out.

    `hub_id` is `<id>` or `<id>:<configuration>`. Where the environment variable names a folder, it is a copy of the
    dataset: a clone of its repository, or files called after the split.
    """
    rows: list[Row | DataError] = []
    for row, place in _entries(name, hub_id, split, folder_variable):
        if isinstance(row, DataError):
            rows.append(row)
            continue
        try:
            found = convert(row)
        except Unusable as reason:
            rows.append(
                DataError(f"not a row of {name}: {reason}", place, "mend or remove the row, or take another copy")
            )
            continue
        if found is not None:
            rows.append(found)
    return rows


def text_at(row: Row, *columns: str) -> str:
    """The text of the first of these columns that the row has."""
    for column in columns:
        value: Any = row.get(column)
        if isinstance(value, str) and value.strip():
            return value
    raise Unusable(f"it has no text in {' or '.join(columns)}")


def _entries(name: str, hub_id: str, split: str, folder_variable: str) -> Iterator[files.Entry]:
    folder = os.environ.get(folder_variable)
    if folder:
        yield from files.read_path(_local(Path(folder).expanduser(), hub_id.partition(":")[2]), split)
        return
    for index, row in enumerate(files.read_hub(hub_id, split)):
        yield row, f"{name} {split}, row {index}"


def _local(folder: Path, configuration: str) -> Path:
    """The part of a local copy that holds the configuration: a folder or file of its name, else the whole."""
    if configuration and folder.is_dir():
        candidates = [folder / configuration, *(folder / f"{configuration}{suffix}" for suffix in files.READERS)]
        return next((path for path in candidates if path.exists()), folder)
    return folder
