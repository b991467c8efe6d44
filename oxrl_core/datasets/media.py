"""Pictures and sounds of a row: the columns `image`, `images`, `audio` and `audios`, as base64, bytes or a path."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from oxrl_core.errors import DataError
from oxrl_core.types import Media, MediaKind, Row

COLUMNS: dict[str, MediaKind] = {"image": "image", "images": "image", "audio": "audio", "audios": "audio"}
LONGEST_PATH = 4096


def media_of(row: Row, place: str) -> Row:
    """`media` of the row, in the order of its columns; nothing where it has none.

    A value is the path of a file, base64 text of one (also as `data:image/png;base64,...`), bytes, or a mapping of
    `bytes` and `path` as in the datasets of the hub; or a list of these. A relative path is looked for beside the file
    that the row comes from, then in the working directory.
    """
    found: list[Media] = []
    for column, kind in COLUMNS.items():
        value = row.get(column)
        values = cast("Sequence[Any]", value) if isinstance(value, list | tuple) else [value]
        found += [_media(one, kind, column, place) for one in values if one is not None and one != ""]
    return {"media": tuple(found)} if found else {}


def _media(value: Any, kind: MediaKind, column: str, place: str) -> Media:
    if isinstance(value, Mapping):
        parts = cast("Mapping[str, Any]", value)
        value = parts.get("bytes") or parts.get("path")
    if isinstance(value, bytes) and value:
        return Media(kind, value)
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str) and value:
        file = _file(value, place)
        if file is not None:
            return Media(kind, path=str(file))
        data = _decoded(value)
        if data:
            return Media(kind, data)
    text = repr(value)
    raise DataError(
        f"the column {column!r} holds {text[:60]}: no file of that name, and no base64",
        where=place,
        next_step=f"an {kind} is the path of a file, base64 text, or bytes",
    )


def _file(value: str, place: str) -> Path | None:
    """The file that the text names, or None."""
    if len(value) > LONGEST_PATH or value.startswith("data:") or "\n" in value:
        return None
    source = Path(place.rpartition(", ")[0] or ".")  # "<file>, line 3"
    try:
        for folder in (source.parent, Path()):
            path = folder / Path(value).expanduser()
            if path.is_file():
                return path.resolve()
    except OSError:  # a name that is too long for a file is base64
        return None
    return None


def _decoded(value: str) -> bytes:
    """The bytes of base64 text; none of another text."""
    if value.startswith("data:"):
        value = value.partition(",")[2]
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError):
        return b""
