"""The registry of models: the one that is installed with oxRL, and the user's own beside it, <home>/registry.

An entry of the user's own registry lies over that of the same name in ours: what it says replaces ours, what it leaves
out stays. Onboardings write there; the installed package is never written.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

from oxrl_core.config.mappings import deep_copy, merge
from oxrl_core.config.yaml_text import read_mapping

MODELS = "models"


def registry_folder() -> Path:
    """The registry that is installed with oxRL: models, chat templates and recipes."""
    import registry

    return Path(str(registry.__file__)).parent


def user_registry() -> Path:
    """The user's own registry, which need not exist."""
    home = Path(os.environ.get("OXRL_HOME") or Path.home() / ".oxrl").expanduser().absolute()
    return home / "registry"


def registry_folders(registry: Path | None = None) -> list[Path]:
    """Where entries are looked for: ours first, then those that lie over it."""
    return [registry] if registry is not None else [registry_folder(), user_registry()]


def model_slugs(registry: Path | None = None) -> list[str]:
    """The names of all entries."""
    return sorted({file.stem for folder in registry_folders(registry) for file in (folder / MODELS).glob("*.yaml")})


def entry_of_slug(slug: str, registry: Path | None = None) -> dict[str, Any] | None:
    """The entry of this name, or None."""
    if not slug or slug.startswith(".") or "/" in slug or "\0" in slug:
        return None
    found: dict[str, Any] | None = None
    for folder in registry_folders(registry):
        file = folder / MODELS / f"{slug}.yaml"
        if file.is_file():
            upper = read_mapping(file.read_text(encoding="utf-8"), f"{folder.name}/{MODELS}/{file.name}").mapping
            if found is None:
                found = dict(upper)
                continue
            config = deep_copy(found.get("config") or {})
            merge(config, cast("dict[str, Any]", upper.get("config") or {}))
            found = {**found, **upper, "config": config}
    return found


def model_entry(path: str, registry: Path | None = None) -> tuple[str, dict[str, Any]] | None:
    """Slug and content of the entry for a model path (a hub id or `miniature:<slug>`), or None."""
    slug = path.removeprefix("miniature:").rstrip("/").rsplit("/", 1)[-1].lower()
    entry = entry_of_slug(slug, registry)
    if entry is None:
        return None
    is_it = path == f"miniature:{slug}" or str(entry.get("hub", "")).lower() == path.lower()
    return (slug, entry) if is_it else None


def known_entry(model: str) -> tuple[str, dict[str, Any]] | None:
    """Slug and content of the entry that a slug, a hub id or `miniature:<slug>` names; None without one."""
    if "/" not in model and ":" not in model:
        entry = entry_of_slug(model.lower())
        return None if entry is None else (model.lower(), entry)
    return model_entry(model)
