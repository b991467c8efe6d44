"""The layers of a configuration: values of one origin, with the place where a reader finds each; and overrides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oxrl_core.config.dialect import Translation, translate
from oxrl_core.config.dialect_keys import is_old_key
from oxrl_core.config.mappings import flatten, set_at
from oxrl_core.config.registry import model_entry
from oxrl_core.config.schema import as_datasets
from oxrl_core.config.sources import with_datasets, with_text_keys
from oxrl_core.config.yaml_text import read_value
from oxrl_core.errors import ConfigError


@dataclass
class Layer:
    """Values of one origin, and where each of them can be found by a reader."""

    origin: str
    mapping: dict[str, Any]
    label: str
    lines: dict[str, int] = field(default_factory=dict[str, int])
    sources: dict[str, str] = field(default_factory=dict[str, str])  # new key -> the old key behind it

    def place(self, key: str) -> str:
        """File and line of a key, or of the nearest section around it; and the old key that the reader wrote there."""
        old = self.sources.get(key, "")
        for name in (old, key):
            while name:
                if name in self.lines:
                    return f"{self.label}, line {self.lines[name]}" + (f" ({old})" if old and old != key else "")
                name = name.rpartition(".")[0]
        return self.label


@dataclass(frozen=True)
class Override:
    path: str
    value: Any
    text: str


def model_layers(path: str, registry: Path | None) -> list[Layer]:
    """What the registry says about a model; `registry` none: ours, with the user's own over it."""
    found = model_entry(path, registry) if path else None
    if found is None:
        return []
    slug, entry = found
    mapping = with_datasets(with_text_keys(entry.get("config") or {}))
    return [Layer(f"model {slug}", mapping, f"registry/models/{slug}.yaml")]


def translated(mapping: dict[str, Any], known: dict[str, Any], label: str) -> Translation:
    try:
        return translate(mapping, known=known)
    except ConfigError as error:
        raise ConfigError(error.what, where=f"{label}: {error.where}", next_step=error.next_step) from None


def parse_override(text: str) -> Override:
    path, equals, value = text.partition("=")
    path = path.strip()
    if not equals or not path or any(not part for part in path.split(".")):
        raise ConfigError(
            f"an override is written key=value, not '{text}'",
            where=f"override {text}",
            next_step="for example train.lr=1e-5 or data.train.0.ratio=2",
        )
    return Override(path, read_value(value, f"override {text}"), text)


def nested_overrides(overrides: Sequence[Override]) -> dict[str, Any]:
    """The overrides as a mapping, for whoever only wants to look a value up."""
    nested: dict[str, Any] = {}
    for override in overrides:
        target = nested
        *parents, last = override.path.split(".")
        for part in parents:
            inner = target.get(part)
            target[part] = inner if isinstance(inner, dict) else {}
            target = target[part]
        target[last] = override.value
    return nested


def apply_overrides(mapping: dict[str, Any], overrides: Sequence[Override]) -> tuple[dict[str, str], list[str]]:
    """Sets each override; the dotted keys that changed with the override's text, and notes on translated ones."""
    old = [override for override in overrides if is_old_key(override.path)]
    changed: dict[str, str] = {}
    notes: list[str] = []
    if old:
        translation = translated(nested_overrides(old), mapping, f"overrides {', '.join(o.text for o in old)}")
        notes = translation.notes[:-1]  # the last one speaks about files
        for key, value in flatten(with_datasets(translation.mapping)).items():
            set_at(mapping, key, value, f"override {key}")
            changed[key] = f"override {translation.sources.get(key, key)}"
    for override in overrides:
        if override in old:
            continue
        value = override.value
        if override.path in ("data.train", "data.eval"):
            value = as_datasets(value)
        set_at(mapping, override.path, value, f"override {override.text}")
        changed[override.path] = f"override {override.text}"
    return changed, notes


def forget_below(key: str, origins: dict[str, str]) -> None:
    """A value that is replaced takes the origins of what was inside it along."""
    for known in [k for k in origins if k.startswith(f"{key}.")]:
        del origins[known]


def origin_of(key: str, origins: Mapping[str, str]) -> str:
    """The layer of a key, or of the nearest value around it that a layer set as a whole."""
    while key:
        if key in origins:
            return origins[key]
        key = key.rpartition(".")[0]
    return "default"
