"""Where a configuration comes from: files, recipes, text and mappings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from oxrl_core.config.registry import registry_folder
from oxrl_core.config.schema import Config, as_datasets
from oxrl_core.config.yaml_text import Document, read_mapping
from oxrl_core.errors import ConfigError
from oxrl_core.suggest import did_you_mean

MAX_FILE_BYTES = 1_000_000
MAX_PATH, MAX_NAME = 4000, 255  # Linux refuses longer ones with an error that nobody would understand here


@dataclass(frozen=True)
class RecipeInfo:
    """One ready-made configuration of registry/examples."""

    name: str
    path: Path
    summary: str
    group: str = ""  # the folder below registry/examples: "" for the main ones, "contrib"


def list_recipes(registry: Path | None = None) -> list[RecipeInfo]:
    """Every recipe of the registry with the summary that its first line gives: the main ones, then the others."""
    examples = (registry or registry_folder()) / "examples"
    recipes: list[RecipeInfo] = []
    for path in sorted(examples.glob("**/*.yaml")):
        first = path.read_text(encoding="utf-8").split("\n", 1)[0]
        summary = first.lstrip("# ").strip() if first.startswith("#") else ""
        group = "" if path.parent == examples else path.parent.name
        recipes.append(RecipeInfo(path.stem, path, summary, group))
    return sorted(recipes, key=lambda recipe: (recipe.group, recipe.name))


def main_names(recipes: Sequence[RecipeInfo]) -> list[str]:
    """The names of the main recipes: those that a message has room for."""
    return [recipe.name for recipe in recipes if not recipe.group]


def read_source(source: str | Path | Mapping[str, Any], registry: Path) -> tuple[Document, str, str]:
    """The mapping with line numbers, the label for errors, and the origin of its values."""
    if isinstance(source, Mapping):
        return Document(dict(source), {}), "the given mapping", "mapping"
    if isinstance(source, str) and ("\n" in source or source.lstrip().startswith("{") or ": " in source):
        return read_mapping(source, "the given text"), "the given text", "text"
    path = _find(source, registry)
    return read_mapping(_text_of(path), str(path)), str(path), f"file {path.name}"


def _find(source: str | Path, registry: Path) -> Path:
    """The file that a path or the name of a recipe means."""
    if len(str(source)) > MAX_PATH or max(map(len, str(source).encode().split(b"/"))) > MAX_NAME:
        raise ConfigError(
            f"{len(str(source)):,} characters are no path, and without a line break or ': ' they are no YAML",
            where=f"{str(source)[:40]}...",
            next_step="give a YAML file, the name of a recipe, or YAML text",
        )
    path = Path(source).expanduser()
    known = list_recipes(registry)
    recipes = {recipe.name: recipe.path for recipe in known}
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
        next_step=f"give a YAML file or one of the recipes: {', '.join(main_names(known))}, ... (oxrl examples --all)",
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


def with_text_keys(mapping: Mapping[Any, Any]) -> dict[str, Any]:
    """A deep copy with text keys; a section left empty in YAML is an empty section."""

    def copy(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): copy(inner) for key, inner in cast("Mapping[Any, Any]", value).items()}
        if isinstance(value, list | tuple):
            return [copy(item) for item in cast("Sequence[Any]", value)]
        return value

    result = cast("dict[str, Any]", copy(mapping))
    return {key: {} if value is None and key in Config.model_fields else value for key, value in result.items()}


def with_datasets(mapping: dict[str, Any]) -> dict[str, Any]:
    """The mapping with the shorthands of `data.train` and `data.eval` written out."""
    data = mapping.get("data")
    if isinstance(data, dict):
        for key in ("train", "eval"):
            if key in data:
                data[key] = as_datasets(cast("dict[str, object]", data)[key])
    return mapping
