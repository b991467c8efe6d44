"""A whole configuration out of five layers, each value with the layer that set it.

    schema defaults <- preset of the algorithm <- registry/models/<model>.yaml <- your file <- overrides

Everything that is wrong is said at once: each problem names its key, its value, the file and line, and the way out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from oxrl_core.algorithms.base import Algorithm, check_params, get_algorithm
from oxrl_core.config.dialect import Translation, is_old_key, translate
from oxrl_core.config.presets import preset_for
from oxrl_core.config.rules import find_contradictions
from oxrl_core.config.schema import AlgorithmConfig, Config, DataConfig, DatasetConfig, as_datasets
from oxrl_core.config.yaml_text import Document, read_mapping, read_value, write_mapping
from oxrl_core.errors import ConfigError
from oxrl_core.suggest import closest, did_you_mean

MAX_FILE_BYTES = 1_000_000
DOCS = "docs/config.md"


@dataclass(frozen=True)
class LoadedConfig:
    """A configuration, the layer that set each of its values, and what was translated on the way."""

    config: Config
    origins: dict[str, str]  # "train.lr" -> "default" | "preset sgrpo" | "model <slug>" | "file demo.yaml" | "override"
    notes: list[str]


@dataclass(frozen=True)
class RecipeInfo:
    """One ready-made configuration of registry/examples."""

    name: str
    path: Path
    summary: str


@dataclass(frozen=True)
class _Problem:
    key: str
    what: str
    place: str
    fix: str


@dataclass
class _Layer:
    """Values of one origin, and where each of them can be found by a reader."""

    origin: str
    mapping: dict[str, Any]
    label: str
    lines: dict[str, int] = field(default_factory=dict[str, int])
    sources: dict[str, str] = field(default_factory=dict[str, str])  # new key -> the old key behind it

    def place(self, key: str) -> str:
        """File and line of a key, or of the nearest section around it."""
        names = [self.sources.get(key, ""), key]
        for name in names:
            while name:
                if name in self.lines:
                    return f"{self.label}, line {self.lines[name]}"
                name = name.rpartition(".")[0]
        return self.label


@dataclass(frozen=True)
class _Override:
    path: str
    value: Any
    text: str


def registry_folder() -> Path:
    """The registry that is installed with oxRL: models and recipes."""
    import registry

    return Path(str(registry.__file__)).parent


def list_recipes(registry: Path | None = None) -> list[RecipeInfo]:
    """Every recipe of the registry with the summary that its first line gives."""
    recipes: list[RecipeInfo] = []
    for path in sorted(((registry or registry_folder()) / "examples").glob("*.yaml")):
        first = path.read_text(encoding="utf-8").split("\n", 1)[0]
        recipes.append(RecipeInfo(path.stem, path, first.lstrip("# ").strip() if first.startswith("#") else ""))
    return recipes


def load_config(
    source: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), *, registry: Path | None = None
) -> LoadedConfig:
    """The resolved configuration of a YAML file, a recipe's name, YAML text or a mapping, with overrides `a.b=c`."""
    registry = registry or registry_folder()
    document, label, origin = _read(source, registry)
    parsed = [_parse_override(text) for text in overrides]
    file_mapping = _plain(document.mapping)
    translation = _translated(file_mapping, _nested(parsed), label)
    file_layer = _Layer(origin, _expanded(translation.mapping), label, document.lines, translation.sources)
    notes = list(translation.notes)

    said = _copy(file_layer.mapping)
    changed, override_notes = _apply_overrides(said, parsed)
    notes += override_notes

    problems: list[_Problem] = []
    name = _string_at(said, "algorithm", "name") or "sgrpo"
    algorithm: Algorithm | None = None
    try:
        algorithm = get_algorithm(name)
    except ConfigError as error:
        place = _place("algorithm.name", changed, file_layer)
        problems.append(_Problem("algorithm.name", error.what, place, error.next_step))
    lora = bool(_at(said, "model.lora.enabled"))
    preset = preset_for(name, algorithm.kind if algorithm else "rl", lora=lora)
    preset_layer = _Layer(f"preset {preset.name}", _unflatten(preset.values()), f"preset {preset.name}")
    layers = [preset_layer, *_model_layer(_string_at(said, "model", "path"), registry), file_layer]

    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    owners: dict[str, _Layer] = {}
    for layer in layers:
        _merge(merged, layer.mapping)
        for key in _leaves(layer.mapping):
            _forget_below(key, origins)
            origins[key] = layer.origin
            owners[key] = layer
    _, _ = _apply_overrides(merged, parsed)
    for key in changed:
        _forget_below(key, origins)
        origins |= dict.fromkeys(_leaves({key: _at(merged, key)}), "override")

    config, found = _validate(merged, changed, file_layer, owners)
    problems += found
    if algorithm is not None:
        problems += _check_algorithm(algorithm, merged, changed, file_layer)
    if config is not None and algorithm is not None and not problems:
        filled = dict(config.model_dump(mode="json"))
        filled["algorithm"] |= check_params(algorithm, config.algorithm.params)
        config = Config.model_validate(filled)
        for contradiction in find_contradictions(config):
            place = _place(contradiction.key, changed, owners.get(contradiction.key, file_layer))
            value = _at(filled, contradiction.key)
            what = f"{contradiction.key} = {_show(value)} contradicts the rest: {contradiction.reason}"
            problems.append(_Problem(contradiction.key, what, place, contradiction.fix))
    if problems or config is None:
        raise _error(problems, label)
    keys = _leaves(config.model_dump(mode="json"))
    return LoadedConfig(config, {key: _origin(key, origins) for key in keys}, notes)


def read_resolved(path: Path) -> Config:
    """The configuration that `config_to_yaml` wrote, as it stands: no preset, no registry, no dialect."""
    document, label, _ = _read(path, registry_folder())
    try:
        return Config.model_validate(document.mapping)
    except ValidationError as error:
        layer = _Layer("file", document.mapping, label, document.lines)
        raise _error([_explained(item, {}, layer, {}) for item in error.errors()], label) from None


def config_to_yaml(config: Config) -> str:
    """The whole resolved configuration as YAML; loading it gives an equal configuration."""
    return write_mapping(config.model_dump(mode="json"))


def config_hash(config: Config) -> str:
    """Twelve hex digits that are equal for equal configurations."""
    canonical = json.dumps(config.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def model_entry(path: str, registry: Path | None = None) -> tuple[str, dict[str, Any]] | None:
    """Slug and content of the registry entry for a model path (a hub id or `miniature:<slug>`), or None."""
    slug = path.removeprefix("miniature:").rsplit("/", 1)[-1].lower()
    file = (registry or registry_folder()) / "models" / f"{slug}.yaml"
    if not slug or not file.is_file():
        return None
    entry = read_mapping(file.read_text(encoding="utf-8"), f"registry/models/{slug}.yaml").mapping
    is_it = path == f"miniature:{slug}" or str(entry.get("hub", "")).lower() == path.lower()
    return (slug, entry) if is_it else None


# --- reading -------------------------------------------------------------------------------------------------------


def _read(source: str | Path | Mapping[str, Any], registry: Path) -> tuple[Document, str, str]:
    """The mapping with line numbers, the label for errors, and the origin of its values."""
    if isinstance(source, Mapping):
        return Document(dict(source), {}), "the given mapping", "mapping"
    if isinstance(source, str) and ("\n" in source or source.lstrip().startswith("{")):
        return read_mapping(source, "the given text"), "the given text", "text"
    path = _find(source, registry)
    return read_mapping(_text_of(path), str(path)), str(path), f"file {path.name}"


def _find(source: str | Path, registry: Path) -> Path:
    """The file that a path or the name of a recipe means."""
    path = Path(source).expanduser()
    recipes = {recipe.name: recipe.path for recipe in list_recipes(registry)}
    is_name = isinstance(source, str) and "/" not in source and not path.suffix
    if is_name and str(source) in recipes:
        return recipes[str(source)]
    if path.is_dir():
        inside = sorted(file.name for file in path.glob("*.yaml"))
        hint = f"give one of its files: {', '.join(inside[:8])}" if inside else "give a YAML file"
        raise ConfigError("this is a folder, not a config file", where=str(path), next_step=hint)
    if path.is_file():
        return path
    if path.name == str(source) and path.suffix in (".yaml", ".yml") and path.stem in recipes:
        return recipes[path.stem]
    neighbours = [file.name for file in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    near = did_you_mean(path.stem, recipes) if is_name else did_you_mean(path.name, [*neighbours, *recipes])
    raise ConfigError(
        f"there is no such file{' or recipe' if is_name else ''}.{near}",
        where=str(source) or "(empty path)",
        next_step=f"give a YAML file or one of the recipes: {', '.join(recipes)}",
    )


def _text_of(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(
                f"the file has {path.stat().st_size:,} bytes; a config has a few thousand",
                where=str(path),
                next_step="is this a data file? It belongs in data.train",
            )
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"the file is not UTF-8 text (byte {error.start})", where=str(path), next_step="save it as UTF-8"
        ) from None
    except OSError as error:
        raise ConfigError(f"the file cannot be read: {error.strerror}", where=str(path)) from None


def _translated(mapping: dict[str, Any], known: dict[str, Any], label: str) -> Translation:
    try:
        return translate(mapping, known=known)
    except ConfigError as error:
        raise ConfigError(error.what, where=f"{label}: {error.where}", next_step=error.next_step) from None


def _plain(mapping: Mapping[Any, Any]) -> dict[str, Any]:
    """A deep copy with text keys; a section left empty in YAML is an empty section."""

    def copy(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): copy(inner) for key, inner in cast("Mapping[Any, Any]", value).items()}
        if isinstance(value, list | tuple):
            return [copy(item) for item in cast("Sequence[Any]", value)]
        return value

    result = cast("dict[str, Any]", copy(mapping))
    return {key: {} if value is None and key in Config.model_fields else value for key, value in result.items()}


def _expanded(mapping: dict[str, Any]) -> dict[str, Any]:
    """The mapping with the shorthands of `data.train` and `data.eval` written out."""
    data = mapping.get("data")
    if isinstance(data, dict):
        for key in ("train", "eval"):
            if key in data:
                data[key] = as_datasets(cast("dict[str, object]", data)[key])
    return mapping


def _model_layer(path: str, registry: Path) -> list[_Layer]:
    found = model_entry(path, registry) if path else None
    if found is None:
        return []
    slug, entry = found
    mapping = _expanded(_plain(entry.get("config") or {}))
    return [_Layer(f"model {slug}", mapping, f"registry/models/{slug}.yaml")]


# --- overrides -----------------------------------------------------------------------------------------------------


def _parse_override(text: str) -> _Override:
    path, equals, value = text.partition("=")
    path = path.strip()
    if not equals or not path or any(not part for part in path.split(".")):
        raise ConfigError(
            f"an override is written key=value, not '{text}'",
            where=f"override {text}",
            next_step="for example train.lr=1e-5 or data.train.0.ratio=2",
        )
    return _Override(path, read_value(value, f"override {text}"), text)


def _nested(overrides: Sequence[_Override]) -> dict[str, Any]:
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


def _apply_overrides(mapping: dict[str, Any], overrides: Sequence[_Override]) -> tuple[dict[str, str], list[str]]:
    """Sets each override; the dotted keys that changed with the override's text, and notes on translated ones."""
    old = [override for override in overrides if is_old_key(override.path)]
    changed: dict[str, str] = {}
    notes: list[str] = []
    if old:
        translation = _translated(_nested(old), mapping, f"overrides {', '.join(o.text for o in old)}")
        notes = translation.notes[:-1]  # the last one speaks about files
        for key, value in _flatten(_expanded(translation.mapping)).items():
            _set(mapping, key, value, f"override {key}")
            changed[key] = f"override {translation.sources.get(key, key)}"
    for override in overrides:
        if override in old:
            continue
        value = override.value
        if override.path in ("data.train", "data.eval"):
            value = as_datasets(value)
        _set(mapping, override.path, value, f"override {override.text}")
        changed[override.path] = f"override {override.text}"
    return changed, notes


def _set(mapping: dict[str, Any], path: str, value: Any, label: str) -> None:
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


# --- merging -------------------------------------------------------------------------------------------------------


def _merge(base: dict[str, Any], upper: Mapping[str, Any]) -> None:
    """Lays a mapping over another: sections are merged, values and lists replaced."""
    for key, value in upper.items():
        below = base.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            _merge(cast("dict[str, Any]", below), cast("dict[str, Any]", value))
        else:
            base[key] = _copy(value) if isinstance(value, dict) else _copied_list(value)


def _copy(mapping: Any) -> Any:
    return {key: _copy(v) if isinstance(v, dict) else _copied_list(v) for key, v in mapping.items()}


def _copied_list(value: Any) -> Any:
    if isinstance(value, list):
        return [_copy(v) if isinstance(v, dict) else v for v in cast("list[Any]", value)]
    return value


def _flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value; lists are values."""
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            flat |= _flatten(cast("dict[str, Any]", inner), f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = inner
    return flat


def _unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        _set(nested, key, value, key)
    return nested


def _leaves(mapping: Mapping[str, Any]) -> list[str]:
    """Dotted keys of all values; the entries of a list of sections are counted, other lists are one value."""
    keys: list[str] = []
    for key, value in _flatten(mapping).items():
        items = cast("list[Any]", value) if isinstance(value, list) else []
        if items and all(isinstance(item, dict) for item in items):
            keys += [f"{key}.{i}.{inner}" for i, item in enumerate(items) for inner in _flatten(item)]
        else:
            keys.append(key)
    return keys


def _forget_below(key: str, origins: dict[str, str]) -> None:
    """A value that is replaced takes the origins of what was inside it along."""
    for known in [k for k in origins if k.startswith(f"{key}.")]:
        del origins[known]


def _origin(key: str, origins: Mapping[str, str]) -> str:
    """The layer of a key, or of the nearest value around it that a layer set as a whole."""
    while key:
        if key in origins:
            return origins[key]
        key = key.rpartition(".")[0]
    return "default"


def _at(mapping: Mapping[str, Any], path: str) -> Any:
    value: Any = mapping
    for part in path.split("."):
        if isinstance(value, dict):
            value = cast("dict[str, Any]", value).get(part)
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(cast("list[Any]", value)):
            value = cast("list[Any]", value)[int(part)]
        else:
            return None
    return value


def _string_at(mapping: Mapping[str, Any], section: str, key: str) -> str:
    value = _at(mapping, f"{section}.{key}")
    return value if isinstance(value, str) else ""


# --- what is wrong -------------------------------------------------------------------------------------------------


def _validate(
    merged: dict[str, Any], changed: Mapping[str, str], file_layer: _Layer, owners: Mapping[str, _Layer]
) -> tuple[Config | None, list[_Problem]]:
    try:
        return Config.model_validate(merged), []
    except ValidationError as error:
        # A list counts as too short as well where an entry is wrong: the entry's own problem says it.
        items = [item for item in error.errors() if item["type"] != "too_short" or not item["input"]]
        problems = [_explained(item, changed, file_layer, owners) for item in items]
        unique = {problem.key: problem for problem in reversed(problems)}  # a union reports once per member
        return None, list(reversed(unique.values()))


def _explained(item: Any, changed: Mapping[str, str], file_layer: _Layer, owners: Mapping[str, _Layer]) -> _Problem:
    """One of pydantic's findings in our words: key, value, place and the way out."""
    key = _known_part(cast("tuple[int | str, ...]", item["loc"]))
    kind, value = str(item["type"]), item["input"]
    layer = owners.get(key, file_layer)
    place = _place(key, changed, layer)
    if kind == "extra_forbidden":
        what, fix = _unknown_key(key)
        return _Problem(key, what, place, fix)
    if kind == "missing":
        description = _description(key)
        return _Problem(key, f"{key} is required{': ' + description if description else ''}", place, f"add {key}")
    message = str(item["msg"]).replace("Input should be", "should be").replace("Value error, ", "")
    if kind in ("model_type", "dict_type"):
        message = "should be a section with keys of its own"
    elif kind == "too_short":
        message = "needs at least one entry"
    elif kind == "string_pattern_mismatch":
        message = "should start with a letter or digit and hold only letters, digits, '.', '_' and '-'"
    description = _description(key)
    return _Problem(key, f"{key} = {_show(value)} {message}", place, f"{key}: {description}" if description else DOCS)


def _known_part(loc: tuple[int | str, ...]) -> str:
    """The dotted key of a pydantic location, without the names of union members and validators."""
    parts: list[str] = []
    section: type[BaseModel] | None = Config
    for part in loc:
        if isinstance(part, int):
            parts.append(str(part))
            continue
        if section is None:
            break
        parts.append(part)
        section = _section_below(section, part)
    return ".".join(parts)


def _section_below(section: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The section that a field holds (for a list of sections: that of its entries), or None for a value."""
    info = section.model_fields.get(name)
    if info is None:
        return None
    if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
        return info.annotation
    return DatasetConfig if section is DataConfig and name in ("train", "eval") else None


def section_of(key: str) -> type[BaseModel] | None:
    """The section in which a dotted key stands, or None where there is no such section."""
    section: type[BaseModel] | None = Config
    for part in key.split(".")[:-1]:
        if section is None:
            return None
        section = section if part.isdecimal() else _section_below(section, part)
    return section


def _description(key: str) -> str:
    section = section_of(key)
    info = section.model_fields.get(key.rpartition(".")[2]) if section else None
    return info.description or "" if info else ""


def all_keys() -> Iterator[str]:
    """Every dotted key of the schema; datasets stand as `data.train.*.name`."""

    def walk(section: type[BaseModel], prefix: str) -> Iterator[str]:
        for name in section.model_fields:
            inner = _section_below(section, name)
            if inner is None:
                yield f"{prefix}{name}"
            else:
                yield from walk(inner, f"{prefix}{name}.*." if inner is DatasetConfig else f"{prefix}{name}.")

    return walk(Config, "")


def _unknown_key(key: str) -> tuple[str, str]:
    """What is wrong with an unknown key, and the key that was probably meant."""
    section, name = section_of(key), key.rpartition(".")[2]
    here = list(section.model_fields) if section else []
    prefix = key.rpartition(".")[0]
    elsewhere = [known for known in all_keys() if known.rpartition(".")[2] == name and "*" not in known]
    if elsewhere:
        return f"unknown key '{key}'. Did you mean '{elsewhere[0]}'?", f"write {elsewhere[0]}"
    near = closest(name, here)
    if near:
        meant = f"{prefix}.{near}" if prefix else near
        return f"unknown key '{key}'. Did you mean '{meant}'?", f"write {meant}"
    by_leaf = {known.rpartition(".")[2]: known for known in all_keys()}
    leaf = closest(name, by_leaf)
    if leaf:
        return f"unknown key '{key}'. Did you mean '{by_leaf[leaf]}'?", f"write {by_leaf[leaf]}"
    return f"unknown key '{key}'", f"{prefix or 'a config'} takes: {', '.join(here)}"


def _check_algorithm(
    algorithm: Algorithm, merged: dict[str, Any], changed: Mapping[str, str], file_layer: _Layer
) -> list[_Problem]:
    """What is wrong with the parameters of the loss itself."""
    section: Any = merged.get("algorithm")
    given = cast("dict[str, Any]", section) if isinstance(section, dict) else {}
    problems: list[_Problem] = []
    takes = ", ".join(f"{name} (default {value})" for name, value in algorithm.params.items()) or "none of its own"
    for name, value in given.items():
        key = f"algorithm.{name}"
        if name in AlgorithmConfig.model_fields:
            continue
        place = _place(key, changed, file_layer)
        if name in algorithm.params:
            try:
                check_params(algorithm, {name: value})
            except ConfigError as error:
                problems.append(_Problem(key, error.what, place, error.next_step))
            continue
        near = did_you_mean(name, [*algorithm.params, *AlgorithmConfig.model_fields])
        elsewhere = [known for known in all_keys() if known.endswith(f".{name}") and "*" not in known]
        if elsewhere and not near:
            near = f" Did you mean '{elsewhere[0]}'?"
        what = f"{key} is not a parameter of {algorithm.name}.{near}"
        problems.append(_Problem(key, what, place, f"parameters of {algorithm.name}: {takes}"))
    return problems


def _place(key: str, changed: Mapping[str, str], layer: _Layer) -> str:
    """Where a reader finds the value: the override, or the file and line."""
    name = key
    while name:
        if name in changed:
            return changed[name]
        name = name.rpartition(".")[0]
    inside = [text for path, text in changed.items() if path.startswith(f"{key}.") and key not in layer.lines]
    return inside[0] if inside else layer.place(key)


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _error(problems: Sequence[_Problem], label: str) -> ConfigError:
    """All problems as one error; a screenful at most."""
    if len(problems) == 1:
        (only,) = problems
        return ConfigError(only.what, where=only.place, next_step=only.fix)
    shown = problems[:10]
    lines = [f"{len(problems)} problems"]
    lines += [f"  {i}. {p.what}\n     at {p.place}; {p.fix}" for i, p in enumerate(shown, start=1)]
    if len(problems) > len(shown):
        lines.append(f"  and {len(problems) - len(shown)} more")
    return ConfigError("\n".join(lines), where=label, next_step=f"mend them and run again; every key stands in {DOCS}")
