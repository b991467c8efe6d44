"""What is wrong with a configuration, in words: key, value, file and line, and the way out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pydantic import ValidationError

from oxrl_core.algorithms.base import Algorithm, check_params
from oxrl_core.config.keys import DOCS, all_keys, description_of, known_part, what_is_unknown
from oxrl_core.config.layers import Layer
from oxrl_core.config.schema import AlgorithmConfig, Config, DatasetConfig, RewardConfig
from oxrl_core.datasets.base import all_datasets
from oxrl_core.errors import ConfigError
from oxrl_core.rewards.base import all_rewards
from oxrl_core.suggest import did_you_mean

RENAME = "rename the parameter in the signature of the loss"


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong, for a reader who wants to mend it."""

    key: str
    what: str
    place: str
    fix: str


def validated(
    merged: dict[str, Any], changed: Mapping[str, str], file_layer: Layer, owners: Mapping[str, Layer]
) -> tuple[Config | None, list[Mistake]]:
    """The configuration, or every mistake that the schema finds in it."""
    try:
        return Config.model_validate(merged), []
    except ValidationError as error:
        # A list counts as too short as well where an entry is wrong: the entry's own problem says it.
        items = [item for item in error.errors() if item["type"] != "too_short" or not item["input"]]
        mistakes = [explained(item, changed, file_layer, owners) for item in items]
        unique = {mistake.key: mistake for mistake in reversed(mistakes)}  # a union reports once per member
        return None, list(reversed(unique.values()))


def explained(item: Any, changed: Mapping[str, str], file_layer: Layer, owners: Mapping[str, Layer]) -> Mistake:
    """One of pydantic's findings in our words: key, value, place and the way out."""
    key = known_part(cast("tuple[int | str, ...]", item["loc"]))
    kind, value = str(item["type"]), item["input"]
    layer = owners.get(key, file_layer)
    place = place_of(key, changed, layer)
    if kind == "extra_forbidden":
        what, fix = what_is_unknown(key)
        return Mistake(key, what, place, fix)
    if kind == "missing":
        description = description_of(key)
        return Mistake(key, f"{key} is required{': ' + description if description else ''}", place, f"add {key}")
    message = str(item["msg"]).replace("Input should be", "should be").replace("Value error, ", "")
    if kind in ("model_type", "dict_type"):
        message = "should be a section with keys of its own"
    elif kind == "too_short":
        message = "needs at least one entry"
    elif kind == "string_pattern_mismatch":
        message = "should start with a letter or digit and hold only letters, digits, '.', '_' and '-'"
    description = description_of(key)
    return Mistake(key, f"{key} = {shown(value)} {message}", place, f"{key}: {description}" if description else DOCS)


def check_algorithm(
    algorithm: Algorithm, merged: dict[str, Any], changed: Mapping[str, str], file_layer: Layer
) -> list[Mistake]:
    """What is wrong with the parameters of the loss itself."""
    section: Any = merged.get("algorithm")
    given = cast("dict[str, Any]", section) if isinstance(section, dict) else {}
    mistakes: list[Mistake] = []
    takes = ", ".join(f"{name} (default {value})" for name, value in algorithm.params.items()) or "none of its own"
    for name in algorithm.params:
        if name in AlgorithmConfig.model_fields:  # its value would go to the switch and never reach the loss
            what = f"the loss {algorithm.name} has a parameter {name!r}, which is a switch of every loss"
            mistakes.append(Mistake(f"algorithm.{name}", what, place_of("algorithm.name", changed, file_layer), RENAME))
    for name, value in given.items():
        key = f"algorithm.{name}"
        if name in AlgorithmConfig.model_fields:
            continue
        place = place_of(key, changed, file_layer)
        if name in algorithm.params:
            try:
                check_params(algorithm, {name: value})
            except ConfigError as error:
                mistakes.append(Mistake(key, error.what, place, error.next_step))
            continue
        near = did_you_mean(name, [*algorithm.params, *AlgorithmConfig.model_fields])
        elsewhere = [known for known in all_keys() if known.endswith(f".{name}") and "*" not in known]
        if elsewhere and not near:
            near = f" Did you mean '{elsewhere[0]}'?"
        what = f"{key} is not a parameter of {algorithm.name}.{near}"
        mistakes.append(Mistake(key, what, place, f"parameters of {algorithm.name}: {takes}"))
    return mistakes


def check_reward(merged: dict[str, Any], changed: Mapping[str, str], file_layer: Layer) -> list[Mistake]:
    """What is wrong with the parameters of a built-in reward; of somebody's own the check of a run says it."""
    section: Any = merged.get("reward")
    given = cast("dict[str, Any]", section) if isinstance(section, dict) else {}
    own = {name: value for name, value in given.items() if name not in RewardConfig.model_fields}
    name = given.get("name", RewardConfig().name)
    if not own or not isinstance(name, str) or ":" in name or name not in all_rewards():
        return []
    parameters, mistakes = all_rewards()[name].parameters, list[Mistake]()
    for parameter, value in own.items():
        key = f"reward.{parameter}"
        place = place_of(key, changed, file_layer)
        if parameter in parameters.names:
            try:
                parameters.check({parameter: value}, section="reward", owner=name)
            except ConfigError as error:
                mistakes.append(Mistake(key, error.what, place, error.next_step))
            continue
        near = did_you_mean(parameter, [*parameters.names, *RewardConfig.model_fields])
        what = f"{key} is not a parameter of {name}.{near}"
        mistakes.append(Mistake(key, what, place, f"parameters of {name}: {parameters.takes()}"))
    return mistakes


def check_datasets(merged: dict[str, Any], changed: Mapping[str, str], file_layer: Layer) -> list[Mistake]:
    """What is wrong with the parameters of built-in datasets; files and the hub have none."""
    section: Any = merged.get("data")
    data = cast("dict[str, Any]", section) if isinstance(section, dict) else {}
    mistakes: list[Mistake] = []
    for part in ("train", "eval"):
        listed: Any = data.get(part)
        for index, entry in enumerate(cast("list[Any]", listed) if isinstance(listed, list) else []):
            if isinstance(entry, dict):
                given = cast("dict[str, Any]", entry)
                mistakes += _check_dataset(given, f"data.{part}.{index}", changed, file_layer)
    return mistakes


def _check_dataset(given: dict[str, Any], section: str, changed: Mapping[str, str], file_layer: Layer) -> list[Mistake]:
    own = {name: value for name, value in given.items() if name not in DatasetConfig.model_fields}
    known, name = all_datasets(), given.get("name")
    if isinstance(name, str) and name not in known and ":" in name and not name.startswith("hub:"):
        return []  # somebody's own function: the check of a run says it
    mistakes: list[Mistake] = []
    if not isinstance(name, str) or name not in known:
        for key in own:
            what, fix = what_is_unknown(f"{section}.{key}")
            mistakes.append(Mistake(f"{section}.{key}", what, place_of(f"{section}.{key}", changed, file_layer), fix))
        return mistakes
    parameters = known[name].parameters
    for parameter, value in own.items():
        key = f"{section}.{parameter}"
        place = place_of(key, changed, file_layer)
        if parameter in parameters.names:
            try:
                parameters.check({parameter: value}, section=section, owner=name)
            except ConfigError as error:
                mistakes.append(Mistake(key, error.what, place, error.next_step))
            continue
        near = did_you_mean(parameter, parameters.names)
        what, fix = f"{key} is not a parameter of {name}.{near}", f"parameters of {name}: {parameters.takes()}"
        if not near:  # a column or a ratio that is misspelt
            what, fix = what_is_unknown(key)
        mistakes.append(Mistake(key, what, place, fix))
    for parameter in parameters.required:
        if parameter not in own:
            what = f"{name} needs {section}.{parameter}"
            place = place_of(section, changed, file_layer)
            mistakes.append(Mistake(f"{section}.{parameter}", what, place, f"{name} takes: {parameters.takes()}"))
    return mistakes


def place_of(key: str, changed: Mapping[str, str], layer: Layer) -> str:
    """Where a reader finds the value: the override, or the file and line."""
    name = key
    while name:
        if name in changed:
            return changed[name]
        name = name.rpartition(".")[0]
    inside = [text for path, text in changed.items() if path.startswith(f"{key}.") and key not in layer.lines]
    return inside[0] if inside else layer.place(key)


def shown(value: Any) -> str:
    """A value as it stands in a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def as_error(mistakes: Sequence[Mistake], label: str) -> ConfigError:
    """All mistakes as one error; a screenful at most."""
    if len(mistakes) == 1:
        (only,) = mistakes
        return ConfigError(only.what, where=only.place, next_step=only.fix)
    first = mistakes[:10]
    lines = [f"{len(mistakes)} problems"]
    lines += [f"  {i}. {p.what}\n     at {p.place}; {p.fix}" for i, p in enumerate(first, start=1)]
    if len(mistakes) > len(first):
        lines.append(f"  and {len(mistakes) - len(first)} more")
    return ConfigError("\n".join(lines), where=label, next_step=f"mend them and run again; every key stands in {DOCS}")
