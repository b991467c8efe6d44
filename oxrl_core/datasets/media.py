"""Pictures and sounds of a row: the columns `image`, `images`, `audio` and `audios`, as base64, bytes or a path."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from oxrl_core.errors import DataError
from oxrl_core.types import Media, MediaKind, Row

COLUMNS: dict[str, MediaKind] = {"image": "image", "images": "image", "audio": "audio", "audios": "audio"}
# Type of a part of a message -> where its picture or sound goes, and what stands in the text.
PARTS = {"image": ("images", "<image>"), "image_url": ("images", "<image>"), "audio": ("audios", "<audio>")}
VALUES_OF_PARTS = ("image", "image_url", "audio", "url", "path", "bytes", "base64", "data", "audio_url")
LONGEST_PATH = 4096


def digest_of_media(row: Mapping[str, Any]) -> str:
    """What tells a row's pictures and sounds from another's: the same words about another picture ask another thing."""
    found: list[Any] = [row[column] for column in COLUMNS if row.get(column)]  # as in a file
    found += [(one.kind, one.data, one.path) for one in cast("Sequence[Media]", row.get("media") or ())]  # as read
    return "\0" + hashlib.sha256(repr(found).encode()).hexdigest() if found else ""


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


def without_parts(row: Row, columns: Sequence[str | None], place: str) -> Row:
    """The row with messages whose content is text, where it was a list of parts.

    A part is {"type": "text", "text": ...}, or of type image, image_url or audio: `<image>` or `<audio>` stands for it
    in the text. What is shown is in the part itself, and then joins `images` or `audios`, or in the row's own columns.
    The first of the columns with media is asked for them: two conversations that are compared show the same.
    """
    changed: Row = {}
    shown: dict[str, list[Any]] = {}
    for column in columns:
        value = row.get(column) if column else None
        if not isinstance(value, list | tuple) or not any(map(_has_parts, cast("Sequence[Any]", value))):
            continue
        found: dict[str, list[Any]] = {"images": [], "audios": []}
        messages = [_flat(item, found, f"{column}", place) for item in cast("Sequence[Any]", value)]
        changed[str(column)] = messages
        shown = shown or {name: values for name, values in found.items() if values}
    if shown and any(row.get(name) for name in COLUMNS):
        raise DataError(
            "pictures or sounds stand in the messages and in a column of the row",
            where=place,
            next_step="keep them in one of the two places",
        )
    return {**row, **changed, **shown} if changed else row


def _has_parts(message: Any) -> bool:
    return isinstance(message, Mapping) and isinstance(cast("Mapping[str, Any]", message).get("content"), list | tuple)


def _flat(message: Any, shown: dict[str, list[Any]], column: str, place: str) -> Any:
    """The message with text as content; what its parts show is put into `shown`."""
    if not _has_parts(message):
        return message
    text = ""
    for item in message["content"]:
        part = cast("Mapping[str, Any]", item) if isinstance(item, Mapping) else {"type": "text", "text": item}
        kind = part.get("type")
        if kind == "text" and isinstance(part.get("text"), str):
            text += part["text"]
            continue
        if kind not in PARTS:
            raise DataError(
                f"the column {column!r} holds a part of a message that is not known: {repr(cast('object', item))[:60]}",
                where=place,
                next_step=f"a part has the type text, {', '.join(PARTS)}",
            )
        name, word = PARTS[kind]
        text += word
        values = [part[key] for key in VALUES_OF_PARTS if part.get(key)]
        shown[name] += [
            value["url"] if isinstance(value, Mapping) and "url" in value else value for value in values[:1]
        ]
    return {**message, "content": text}


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
