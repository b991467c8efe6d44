"""One translation in progress: what is left of the old keys, what they have become, and a note for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from oxrl_core.algorithms.base import get_algorithm
from oxrl_core.errors import ConfigError


@dataclass
class Translation:
    """A mapping in today's names, a note for each translated key, and which old key each new one came from."""

    mapping: dict[str, Any] = field(default_factory=dict[str, Any])
    notes: list[str] = field(default_factory=list[str])
    sources: dict[str, str] = field(default_factory=dict[str, str])


class Work:
    """The old keys of one configuration on their way into today's names."""

    def __init__(self, old: dict[str, Any], result: Translation, known: Mapping[str, Any]) -> None:
        self.old = old
        self.result = result
        self.known = known  # what other layers say
        self.problems: list[tuple[str, str]] = []
        self.next_steps: list[str] = []
        self.algorithm = get_algorithm("sgrpo")  # until its own name is known

    @property
    def is_rl(self) -> bool:
        """Whether completions are drawn."""
        return self.algorithm.kind == "rl"

    def put(self, new: str, value: Any, old: str, reason: str) -> None:
        present = value_at(self.result.mapping, new)
        if present is not MISSING and present != value:
            self.refuse(old, f"{new} is already {present!r}; both say the same thing", f"keep {new}, remove {old}")
            return
        put_at(self.result.mapping, new, value)
        self.result.sources[new] = old.split(" ")[0]
        self.result.notes.append(f"{old} -> {new} = {_short(value)} ({reason})")

    def drop(self, old: str, reason: str) -> None:
        self.result.notes.append(f"{old} -> dropped ({reason})")

    def refuse(self, old: str, reason: str, next_step: str) -> None:
        self.problems.append((old, reason))
        self.next_steps.append(next_step)

    def now(self, path: str) -> Any:
        """The value that stands in the translated mapping or in another layer, or None."""
        value = value_at(self.result.mapping, path)
        value = value_at(self.known, path) if value is MISSING else value
        return None if value is MISSING else value

    def whole(self, old: str, default: int) -> int:
        """A positive count out of an old key."""
        value = self.old.get(old, default)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            self.refuse(old, f"{value!r} is not a positive whole number", f"set {old} to 1 or more")
            return default
        return value


class _Missing:
    """No such key; null is a value."""


MISSING = _Missing()


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 160 else f"{text[:157]}..."


def value_at(mapping: Mapping[str, Any], path: str) -> Any:
    value: Any = mapping
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return MISSING
        value = cast("Mapping[str, Any]", value)[part]
    return value


def put_at(mapping: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for part in parents:
        inner = mapping.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"'{part}' must be a section, not {inner!r}", where=path)
        mapping = cast("dict[str, Any]", inner)
    mapping[last] = value


def remove_at(mapping: dict[str, Any], path: str) -> None:
    *parents, last = path.split(".")
    for part in parents:
        mapping = mapping.get(part, {})
    mapping.pop(last, None)


def without(mapping: Mapping[str, Any], old: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A copy without the old keys and without the sections that they alone made up."""
    kept: dict[str, Any] = {}
    for key, value in mapping.items():
        path = f"{prefix}{key}"
        if path in old:
            continue
        if isinstance(value, Mapping) and value:
            inner = without(cast("Mapping[str, Any]", value), old, f"{path}.")
            if inner or not any(known.startswith(f"{path}.") for known in old):
                kept[key] = inner
        elif not (value in (None, {}) and path in ("inference_engine", "research", "lora", "deepspeed_ref")):
            kept[key] = value
    return kept
