"""Entries out of the layout of earlier versions: a folder per model with config.yaml, results.json; a manifest.json.

Of a configuration only what belongs to the model is taken, and only where it differs from the defaults. That somebody
once called a model onboarded is kept as a claim: it is verified here when an onboarding has shown it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from pydantic import Field

from oxrl_core.config.load import load_config
from oxrl_core.config.mappings import at, deep_copy, merge, unflatten
from oxrl_core.config.registry import MODELS, registry_folder
from oxrl_core.config.schema import Config
from oxrl_core.config.yaml_text import write_mapping
from oxrl_core.errors import ConfigError, OxrlError
from oxrl_core.runs.records import file_lock, write_text
from oxrl_core.runs.rundir import oxrl_home
from oxrl_core.runs.views import View
from swarm.onboard.archive import LOCK_SECONDS, entry_path, read_entry

MOST_BYTES = 1 << 20
# What belongs to a model: how it is held and drawn from. Data, lengths, reward and steps belong to an experiment.
KEYS = (
    "model.precision", "model.attention", "model.gradient_checkpointing", "model.lora.enabled", "model.lora.rank",
    "model.lora.alpha", "model.lora.target_modules", "deepspeed.zero_stage", "deepspeed.offload_optimizer",
    "deepspeed.offload_params", "rollout.memory_fraction", "rollout.tensor_parallel",
)  # fmt: skip


class Imported(View):
    """One model of the old layout."""

    slug: str
    model: str = ""
    path: str = ""
    """The entry that was written; empty: none was."""
    config: dict[str, Any] = Field(default_factory=dict[str, Any])
    """What differs from the defaults."""
    claims: dict[str, Any] = Field(default_factory=dict[str, Any])
    """What the old records say about it; nothing of it was verified."""
    problem: str = ""


class ImportView(View):
    """Everything that a folder of the old layout holds."""

    models: list[Imported]
    next: str = ""


def import_registry(folder: Path, *, home: Path | None = None) -> ImportView:
    """Entries in the user's own registry, one for each model of a folder in the old layout."""
    home = home or oxrl_home()
    if not folder.is_dir():
        raise ConfigError("there is no such folder", str(folder), "name the folder that holds a folder for each model")
    manifest = _manifest(folder)
    slugs = {path.parent.name for path in folder.glob("*/config.yaml")} | {_slug(model) for model in manifest}
    if not slugs:
        raise ConfigError(
            "it holds neither <model>/config.yaml nor manifest.json", str(folder), "name the registry folder"
        )
    names = {_slug(model): model for model in manifest}
    models = [_import_one(folder / slug, slug, names.get(slug, ""), manifest, home) for slug in sorted(slugs)]
    first = next((one for one in models if one.path), None)
    return ImportView(models=models, next=f"oxrl onboard {first.model}" if first else "mend what is named above")


def _slug(model: str) -> str:
    return model.rstrip("/").rsplit("/", 1)[-1].lower()


def _manifest(folder: Path) -> dict[str, dict[str, Any]]:
    for path in (folder / "manifest.json", folder.parent / "manifest.json"):
        models = _json(path).get("models")
        if isinstance(models, dict):
            return {
                str(name): cast("dict[str, Any]", facts)
                for name, facts in cast("dict[str, object]", models).items()
                if isinstance(facts, dict)
            }
    return {}


def _json(path: Path) -> dict[str, Any]:
    """The object of a file; empty where there is none, or nothing that can be read."""
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > MOST_BYTES:
            return {}
        value: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _import_one(folder: Path, slug: str, model: str, manifest: Mapping[str, Mapping[str, Any]], home: Path) -> Imported:
    results = _json(folder / "results.json") or _json(folder / "verify_results.json")
    said = dict(manifest.get(model) or {})
    claims: dict[str, Any] = {
        name: value
        for name, value in {**said, **results}.items()
        if name in ("status", "tasks", "dataset", "reward_first", "reward_final", "onboarded_at", "success")
        and isinstance(value, str | int | float | bool | list)
    }
    found = Imported(slug=slug, model=model or str(results.get("model_id") or ""), claims=claims)
    path = folder / "config.yaml"
    if not path.is_file():
        return found.model_copy(update={"problem": "it has no config.yaml"})
    try:
        if path.is_symlink() or path.stat().st_size > MOST_BYTES:
            raise ConfigError("a link, or more than a megabyte", str(path), "copy the file itself")
        loaded = load_config(path.read_text(encoding="utf-8"), registry=registry_folder()).config
    except (OxrlError, OSError, UnicodeDecodeError) as error:
        return found.model_copy(update={"problem": str(error)[:300]})
    found.model = loaded.model.path
    found.config = _differences(loaded)
    found.path = str(_write(slug, found, home))
    return found


def _differences(config: Config) -> dict[str, Any]:
    """The model's own values that differ from the defaults."""
    sections = {"run": {"name": "a"}, "model": {"path": config.model.path}, "data": {"train": "reverse3"}}
    usual = Config.model_validate(sections).model_dump(mode="json")
    values = config.model_dump(mode="json")
    lora = bool(at(values, "model.lora.enabled"))
    keys = [key for key in KEYS if lora or not key.startswith("model.lora.")]
    return unflatten({key: at(values, key) for key in keys if at(values, key) != at(usual, key)})


def _write(slug: str, found: Imported, home: Path) -> Path:
    """The entry; fixes that were kept, and what was verified here, stay in it."""
    path = entry_path(home, slug)
    path.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(path.with_suffix(".lock"), LOCK_SECONDS):
        before = read_entry(home, slug)
        is_ours = (registry_folder() / MODELS / f"{slug}.yaml").is_file()
        facts: dict[str, Any] = {"model": found.model, "claims": found.claims}
        if not is_ours:
            facts["hub"] = found.model
        config = deep_copy(found.config)
        merge(config, cast("dict[str, Any]", before.get("config") or {}))
        write_text(path, write_mapping({**facts, **before, "config": config, "claims": found.claims}), durable=True)
    return path
