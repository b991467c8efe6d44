"""JSON from strangers: bounded in size and depth before it is read, and never anything but data."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, cast

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKETS = re.compile(r"[\[\]{}]")
_PLAIN = re.compile(r"^[\w.+/:@ -]{1,96}$")


class UnreadableDocument(ValueError):
    """A document that is too large, too deep, or no JSON object."""


def read_document(data: bytes, name: str, most: int = MAX_BYTES) -> dict[str, Any]:
    """The object that a JSON text holds; UnreadableDocument where it is none, or too large or too deep to be looked at.

    The depth is counted over the text without its strings: the parser itself would recurse first and count later.
    """
    if len(data) > most:
        raise UnreadableDocument(f"{name} has more than {most:,} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableDocument(f"{name} is not UTF-8 (byte {error.start})") from None
    depth = 0
    for bracket in _BRACKETS.finditer(_STRINGS.sub("", text)):
        depth += 1 if bracket.group() in "[{" else -1
        if depth > MAX_DEPTH:
            raise UnreadableDocument(f"{name} is nested deeper than {MAX_DEPTH}")
    try:
        value: object = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise UnreadableDocument(f"{name} is no JSON: {str(error)[:80]}") from None
    if not isinstance(value, dict):
        raise UnreadableDocument(f"{name} holds no object")
    return cast("dict[str, Any]", value)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")


def walk(value: object, path: str = "") -> Iterator[tuple[str, str, object]]:
    """Every key at any depth: its dotted path, its name and its value."""
    if isinstance(value, dict):
        for key, inner in cast("dict[str, object]", value).items():
            here = f"{path}.{key}" if path else str(key)
            yield here, str(key), inner
            yield from walk(inner, here)
    elif isinstance(value, list):
        for index, inner in enumerate(cast("list[object]", value)):
            yield from walk(inner, f"{path}.{index}")


def plain(value: object, fallback: str = "(unusual)") -> str:
    """A name out of somebody's file as it may be shown: one short line of ordinary characters, else the fallback."""
    if not isinstance(value, str) or not value:
        return ""
    return value if _PLAIN.match(value) and value.count(" ") <= 3 else fallback
