"""A whole configuration out of five layers, each value with the layer that set it.

    schema defaults <- preset of the algorithm <- registry/models/<model>.yaml <- your file <- overrides

Everything that is wrong is said at once: each problem names its key, its value, the file and line, and the way out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from oxrl_core.algorithms.base import Algorithm, check_params, get_algorithm
from oxrl_core.config.layers import (
    Layer,
    apply_overrides,
    forget_below,
    model_layers,
    nested_overrides,
    origin_of,
    parse_override,
    translated,
)
from oxrl_core.config.mappings import at, deep_copy, leaves, merge, string_at, unflatten
from oxrl_core.config.mistakes import (
    Mistake,
    as_error,
    check_algorithm,
    check_datasets,
    check_reward,
    explained,
    place_of,
    shown,
    validated,
)
from oxrl_core.config.presets import preset_for
from oxrl_core.config.registry import registry_folder
from oxrl_core.config.rules import find_contradictions
from oxrl_core.config.schema import Config
from oxrl_core.config.sources import read_source, with_datasets, with_text_keys
from oxrl_core.config.yaml_text import write_mapping
from oxrl_core.errors import ConfigError


@dataclass(frozen=True)
class LoadedConfig:
    """A configuration, the layer that set each of its values, and what was translated on the way."""

    config: Config
    origins: dict[str, str]  # "train.lr" -> "default" | "preset sgrpo" | "model <slug>" | "file demo.yaml" | "override"
    notes: list[str]


def load_config(
    source: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), *, registry: Path | None = None
) -> LoadedConfig:
    """The resolved configuration of a YAML file, a recipe's name, YAML text or a mapping, with overrides `a.b=c`."""
    document, label, origin = read_source(source, registry or registry_folder())
    parsed = [parse_override(text) for text in overrides]
    file_mapping = with_text_keys(document.mapping)
    translation = translated(file_mapping, nested_overrides(parsed), label)
    file_layer = Layer(origin, with_datasets(translation.mapping), label, document.lines, translation.sources)
    notes = list(translation.notes)

    said = deep_copy(file_layer.mapping)
    changed, override_notes = apply_overrides(said, parsed)
    notes += override_notes

    mistakes: list[Mistake] = []
    name = string_at(said, "algorithm", "name") or "sgrpo"
    algorithm: Algorithm | None = None
    try:
        algorithm = get_algorithm(name)
    except ConfigError as error:
        place = place_of("algorithm.name", changed, file_layer)
        mistakes.append(Mistake("algorithm.name", error.what, place, error.next_step))
    lora = bool(at(said, "model.lora.enabled"))
    preset = preset_for(algorithm, said, lora=lora)
    preset_layer = Layer(f"preset {preset.name}", unflatten(preset.values()), f"preset {preset.name}")
    layers = [preset_layer, *model_layers(string_at(said, "model", "path"), registry), file_layer]

    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    owners: dict[str, Layer] = {}
    for layer in layers:
        merge(merged, layer.mapping)
        for key in leaves(layer.mapping):
            forget_below(key, origins)
            origins[key] = layer.origin
            owners[key] = layer
    _, _ = apply_overrides(merged, parsed)
    for key in changed:
        forget_below(key, origins)
        origins |= dict.fromkeys(leaves({key: at(merged, key)}), "override")

    config, found = validated(merged, changed, file_layer, owners)
    mistakes += found
    if algorithm is not None:
        mistakes += check_algorithm(algorithm, merged, changed, file_layer)
    mistakes += check_reward(merged, changed, file_layer)
    mistakes += check_datasets(merged, changed, file_layer)
    if config is not None and algorithm is not None and not mistakes:
        filled = dict(config.model_dump(mode="json"))
        filled["algorithm"] |= check_params(algorithm, config.algorithm.params)
        config = Config.model_validate(filled)
        for contradiction in find_contradictions(config):
            place = place_of(contradiction.key, changed, owners.get(contradiction.key, file_layer))
            value = at(filled, contradiction.key)
            what = f"{contradiction.key} = {shown(value)} contradicts the rest: {contradiction.reason}"
            mistakes.append(Mistake(contradiction.key, what, place, contradiction.fix))
    if mistakes or config is None:
        raise as_error(mistakes, label)
    keys = leaves(config.model_dump(mode="json"))
    return LoadedConfig(config, {key: origin_of(key, origins) for key in keys}, notes)


def read_resolved(path: Path) -> Config:
    """The configuration that `config_to_yaml` wrote, as it stands: no preset, no registry, no dialect."""
    document, label, _ = read_source(path, registry_folder())
    try:
        return Config.model_validate(document.mapping)
    except ValidationError as error:
        layer = Layer("file", document.mapping, label, document.lines)
        raise as_error([explained(item, {}, layer, {}) for item in error.errors()], label) from None


def config_to_yaml(config: Config) -> str:
    """The whole resolved configuration as YAML; loading it gives an equal configuration."""
    return write_mapping(config.model_dump(mode="json"))


def config_hash(config: Config) -> str:
    """Twelve hex digits that are equal for equal configurations."""
    canonical = json.dumps(config.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]
