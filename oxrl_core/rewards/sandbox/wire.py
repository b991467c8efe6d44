"""Values as messages. What a child sends is data: only plain types cross, and the judge never unpickles or hashes it.

None, bool, str and small int travel as themselves; every other value as [tag, content]:
i int, f float, c complex, b bytes, l list, t tuple, s set, d dict, ? a value that cannot travel (content: its type).
A subclass travels as its plain base class, so that no `__eq__` of a solution is ever asked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, cast

MAX_DEPTH = 60  # no test needs more, and recursion stays far from the interpreter's limit
EXACT = 2**53  # larger ints are written in hex: a decimal of a million digits would take seconds to read
HEADER = 4  # bytes of a frame's length


# The base class's own way through its items, whatever a subclass says.
CONTAINERS: tuple[tuple[type, str, Callable[[Any], Iterable[Any]]], ...] = (
    (list, "l", list[Any].__iter__),
    (tuple, "t", tuple[Any, ...].__iter__),
    (set, "s", set[Any].__iter__),
    (frozenset, "s", frozenset[Any].__iter__),
)
ENTRIES: Callable[[Any], Iterable[tuple[Any, Any]]] = dict[Any, Any].items


class NotPlain(TypeError):
    """A value that cannot travel."""


class TooDeep(ValueError):
    """A value nested beyond MAX_DEPTH."""


def encode(value: Any, depth: int = 0, *, strict: bool = False) -> Any:
    """The value as JSON-able data. `strict` raises NotPlain where a value cannot travel, instead of saying so in it."""
    if depth > MAX_DEPTH:
        if strict:
            raise TooDeep(f"nested deeper than {MAX_DEPTH}")
        return ["?", "deep"]
    if value is None or value is True or value is False or type(value) is str:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        size = int.__index__(value)
        return size if -EXACT < size < EXACT else ["i", hex(size)]
    if isinstance(value, float):
        return ["f", float.hex(value)]
    if isinstance(value, complex):
        return ["c", [complex.real.__get__(value).hex(), complex.imag.__get__(value).hex()]]
    if isinstance(value, bytes | bytearray):
        return ["b", bytes(value).hex()]
    for kind, tag, items in CONTAINERS:
        if isinstance(value, kind):
            return [tag, [encode(item, depth + 1, strict=strict) for item in items(value)]]
    if isinstance(value, dict):
        entries = ENTRIES(value)
        return [
            "d",
            [[encode(key, depth + 1, strict=strict), encode(item, depth + 1, strict=strict)] for key, item in entries],
        ]
    if strict:
        raise NotPlain(type(value).__name__)
    return ["?", type(value).__name__]


def decode(wire: Any, depth: int = 0) -> Any:
    """The plain value that a message means; ValueError or NotPlain where it means none.

    It hashes what it reads: the judge itself only compares (`matches`), a child that may be killed decodes.
    """
    if depth > MAX_DEPTH:
        raise TooDeep(f"nested deeper than {MAX_DEPTH}")
    if wire is None or type(wire) in (bool, int, str):
        return wire
    tag, content = _tagged(wire)
    if tag in ("i", "f", "c"):
        return number(wire)
    if tag == "b":
        return bytes.fromhex(content)
    if tag == "?":
        raise NotPlain(str(content))
    if tag == "d":
        return {decode(key, depth + 1): decode(value, depth + 1) for key, value in content}
    items = [decode(item, depth + 1) for item in content]
    if tag == "l":
        return items
    return tuple(items) if tag == "t" else frozenset(items) if depth and tag == "s" else set(items)


def _tagged(wire: Any) -> tuple[str, Any]:
    if type(wire) is list:
        parts = cast("list[Any]", wire)
        if len(parts) == 2 and type(parts[0]) is str and parts[0] in ("i", "f", "c", "b", "l", "t", "s", "d", "?"):
            content = parts[1]
            if parts[0] == "c" or parts[0] in "ltsd":
                if type(content) is list:
                    return parts[0], cast("list[Any]", content)
            elif type(content) is str:
                return parts[0], content
    raise ValueError("no message")


def number(wire: Any) -> int | float | complex | None:
    """The number that a message means, None where it means something else."""
    if type(wire) in (bool, int):
        return wire
    if type(wire) is not list:
        return None
    tag, content = _tagged(cast("Any", wire))
    if tag == "i":
        return int(content, 16)
    if tag == "f":
        return float.fromhex(content)
    if tag == "c" and len(content) == 2 and all(type(part) is str for part in content):
        return complex(float.fromhex(content[0]), float.fromhex(content[1]))
    return None


def matches(wire: Any, expected: Any, *, tuples_as_lists: bool = False) -> bool:
    """Whether the message means a value equal to the expected one, as Python's == says for plain values.

    Linear in the message (sets and dicts: sorted): colliding hashes would make a set of 50,000 numbers cost minutes.
    `tuples_as_lists`: the expected value comes from JSON, which has no tuples.
    """
    try:
        return _matches(wire, expected, tuples_as_lists)
    except (ValueError, TypeError, OverflowError, RecursionError):
        return False


def _matches(wire: Any, expected: Any, loose: bool) -> bool:
    if expected is None or isinstance(expected, str):
        return type(wire) is type(expected) and wire == expected
    if isinstance(expected, bool | int | float | complex):
        given = number(wire)
        return given is not None and given == expected
    tag, content = _tagged(wire)
    if isinstance(expected, bytes):
        return tag == "b" and bytes.fromhex(content) == expected
    if isinstance(expected, list | tuple):
        items = cast("list[Any] | tuple[Any, ...]", expected)
        tags = ("l", "t") if loose else ("l",) if isinstance(expected, list) else ("t",)
        return (
            tag in tags
            and len(content) == len(items)
            and all(_matches(given, wanted, loose) for given, wanted in zip(content, items, strict=True))
        )
    if isinstance(expected, set | frozenset):
        wanted_items = [_key(encode(item)) for item in cast("set[Any]", expected)]
        return tag == "s" and len(content) == len(wanted_items) and sorted(map(_key, content)) == sorted(wanted_items)
    if isinstance(expected, dict):
        entries = {_key(encode(key)): value for key, value in cast("dict[Any, Any]", expected).items()}
        if tag != "d" or len(content) != len(entries):
            return False
        given_entries = {_key(key): value for key, value in content}
        return given_entries.keys() == entries.keys() and all(
            _matches(given_entries[key], value, loose) for key, value in entries.items()
        )
    return False


def _key(wire: Any) -> str:
    """A text that two messages share exactly where their values are equal."""
    return json.dumps(_normal(wire))


def _normal(wire: Any) -> Any:
    if wire is None or type(wire) is str:
        return wire
    value = number(wire)
    if isinstance(value, complex) and value.imag == 0:
        value = value.real
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 1.0 == 1, and a set holds one of them
    if value is not None:
        return ["n", hex(value) if isinstance(value, int) else repr(value)]
    tag, content = _tagged(wire)
    if tag in ("b", "?"):
        return [tag, content]
    if tag == "d":
        return [tag, sorted([_key(key), _key(value)] for key, value in content)]
    items = [_normal(item) for item in content]
    return [tag, sorted(items, key=json.dumps) if tag == "s" else items]


def frame(message: Any) -> bytes:
    """The message with its length in front."""
    data = json.dumps(message, separators=(",", ":")).encode()
    return len(data).to_bytes(HEADER, "little") + data
