"""Nested mappings and dotted keys: reading, setting, laying one over another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from oxrl_core.config.keys import DOCS
from oxrl_core.errors import ConfigError


def set_at(mapping: dict[str, Any], path: str, value: Any, label: str) -> None:
    """Sets the value at a dotted key, making the sections on the way; list entries are named by their position."""
    target: Any = mapping
    *parents, last = path.split(".")
    for depth, part in enumerate(parents):
        if isinstance(target, list):
            target = cast("Any", target[_index(cast("list[Any]", target), part, ".".join(parents[:depth]), label)])
            continue
        section = cast("dict[str, Any]", target)
        inner = section.get(part)
        if inner is None:
            inner = section[part] = {}
        if not isinstance(inner, dict | list):
            where = ".".join(parents[: depth + 1])
            what = f"{where} is {inner!r}, which has no keys of its own"
            raise ConfigError(what, where=label, next_step=f"set {where} itself, or look the key up in {DOCS}")
        target = cast("Any", inner)
    if isinstance(target, list):
        target[_index(cast("list[Any]", target), last, ".".join(parents), label)] = value
    else:
        target[last] = value


def _index(items: list[Any], part: str, path: str, label: str) -> int:
    if not part.isdecimal() or int(part) >= len(items):
        raise ConfigError(
            f"{path} is a list of {len(items)}; '{part}' is none of its positions",
            where=label,
            next_step=f"use {path}.0 to {path}.{len(items) - 1}, or give the whole list"
            if items
            else f"give {path}=...",
        )
    return int(part)


def merge(base: dict[str, Any], upper: Mapping[str, Any]) -> None:
    """Lays a mapping over another: sections are merged, values and lists replaced."""
    for key, value in upper.items():
        below = base.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            merge(cast("dict[str, Any]", below), cast("dict[str, Any]", value))
        else:
            base[key] = deep_copy(value) if isinstance(value, dict) else _copied_list(value)


def deep_copy(mapping: Any) -> Any:
    """A copy whose sections and lists are its own."""
    return {key: deep_copy(v) if isinstance(v, dict) else _copied_list(v) for key, v in mapping.items()}


def _copied_list(value: Any) -> Any:
    if isinstance(value, list):
        return [deep_copy(v) if isinstance(v, dict) else v for v in cast("list[Any]", value)]
    return value


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value; lists are values."""
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            flat |= flatten(cast("dict[str, Any]", inner), f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = inner
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Sections out of dotted keys."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        set_at(nested, key, value, key)
    return nested


def leaves(mapping: Mapping[str, Any]) -> list[str]:
    """Dotted keys of all values; the entries of a list of sections are counted, other lists are one value."""
    keys: list[str] = []
    for key, value in flatten(mapping).items():
        items = cast("list[Any]", value) if isinstance(value, list) else []
        if items and all(isinstance(item, dict) for item in items):
            keys += [f"{key}.{i}.{inner}" for i, item in enumerate(items) for inner in flatten(item)]
        else:
            keys.append(key)
    return keys


def at(mapping: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted key, or None."""
    value: Any = mapping
    for part in path.split("."):
        if isinstance(value, dict):
            value = cast("dict[str, Any]", value).get(part)
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(cast("list[Any]", value)):
            value = cast("list[Any]", value)[int(part)]
        else:
            return None
    return value


def string_at(mapping: Mapping[str, Any], section: str, key: str) -> str:
    """The text of a key, or "" where it is no text."""
    value = at(mapping, f"{section}.{key}")
    return value if isinstance(value, str) else ""


def mapping_at(value: dict[str, Any], key: str) -> dict[str, Any]:
    """The object below a key, or an empty one."""
    inner = value.get(key)
    return cast("dict[str, Any]", inner) if isinstance(inner, dict) else {}


def integer_at(value: dict[str, Any], key: str) -> int | None:
    """The whole number below a key, or None."""
    inner = value.get(key)
    return inner if isinstance(inner, int) and not isinstance(inner, bool) else None
