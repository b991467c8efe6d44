"""Entries of onboarded models in the user's own registry: <home>/registry/models/<slug>.yaml, evidence beside it.

They lie over the entries that are installed with oxRL: a configuration of the model begins with the fixes that the
model itself needed. A fix that was kept stays whatever a later onboarding finds: of a key the latest value counts.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from oxrl_core.config.mappings import deep_copy, merge, unflatten
from oxrl_core.config.registry import model_entry
from oxrl_core.config.yaml_text import read_mapping, write_mapping
from oxrl_core.diagnose.views import Change
from oxrl_core.runs.records import file_lock, write_text
from swarm.bugfix.gate import as_override

LOCK_SECONDS = 30.0
_NOT_NAME = re.compile(r"[^a-z0-9._-]+")


def slug_of(model: str) -> str:
    """The name of a model's entry: that of the registry, else made of its path."""
    found = model_entry(model)
    if found is not None:
        return found[0]
    last = model.removeprefix("miniature:").rstrip("/").rsplit("/", 1)[-1].lower()
    return _NOT_NAME.sub("-", last).strip("-.") or "model"


def entry_path(home: Path, slug: str) -> Path:
    return home / "registry" / "models" / f"{slug}.yaml"


def read_entry(home: Path, slug: str) -> dict[str, Any]:
    """The entry of a model; empty where it has none yet."""
    path = entry_path(home, slug)
    try:
        return dict(read_mapping(path.read_text(encoding="utf-8"), str(path)).mapping)
    except FileNotFoundError:
        return {}


def kept_fixes(home: Path, slug: str, stage: str) -> list[Change]:
    """Fixes of earlier onboardings of this model, for the runs of a stage."""
    fixes = cast("list[dict[str, Any]]", read_entry(home, slug).get("fixes") or [])
    return [
        Change(path=fix["path"], old=fix["old"], new=fix["new"], why=fix["why"], risk=fix["risk"])
        for fix in fixes
        if fix["stage"] == stage
    ]


def write_entry(home: Path, slug: str, facts: dict[str, Any], stages: Mapping[str, Sequence[Change]]) -> Path:
    """The entry with new facts; its fixes are those that it had and those of now."""
    path = entry_path(home, slug)
    path.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(path.with_suffix(".lock"), LOCK_SECONDS):
        entry = read_entry(home, slug)
        known = cast("list[dict[str, Any]]", entry.get("fixes") or [])
        fixes = {(fix["stage"], fix["path"]): fix for fix in known}
        for stage, changes in stages.items():
            for change in changes:
                fixes[stage, change.path] = {"stage": stage, **change.model_dump()}
        before = cast("dict[str, Any]", entry.get("verified") or {})
        now = cast("dict[str, Any]", facts.get("verified") or {})
        if before.get("level") == "full" and now.get("level") == "miniature":
            facts = {**facts, "verified": before, "verified_again": now}  # the higher level stands
        # What the model itself needed is where its configurations begin; what its miniature needed is not.
        config = deep_copy(entry.get("config") or {})
        merge(config, unflatten({fix["path"]: fix["new"] for fix in fixes.values() if fix["stage"] == "real"}))
        record = {**entry, **facts, "config": config, "fixes": list(fixes.values())}
        write_text(path, write_mapping(record), durable=True)
    return path


def write_evidence(home: Path, slug: str, run_id: str, files: dict[str, Path]) -> Path:
    """The folder with copies of what proves an entry. Written again it is the same."""
    folder = home / "registry" / "evidence" / slug / run_id
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in files.items():
        if path.is_file():
            unfinished = folder / f".{name}.tmp"
            shutil.copyfile(path, unfinished)
            unfinished.replace(folder / name)
    return folder


def facts_for_entry(model: str) -> dict[str, Any]:
    """What an entry of a model that our registry does not know has to say, looked up by the Scout."""
    from swarm.scout.inspection import look_at

    facts = look_at(model)
    return {
        "hub": facts.model,
        "summary": f"{facts.architecture or facts.model_type}, onboarded here",
        "license": facts.repository.license,
        "gated": bool(facts.repository.gated),
        "modality": facts.modality,
        "parameters": facts.parameters or 0,
        "context_length": facts.context or 0,
        "lora_target_modules": facts.lora_targets,
        "template": {
            "system_role": facts.template.system_role == "kept",
            "generation_prompt": facts.template.generation_prompt,
            "thinking": facts.template.thinking,
            "note": "roles must alternate" if facts.template.strict_alternation else "",
        },
        "architecture": facts.config,
    }


def overrides_of(changes: Sequence[Change]) -> list[str]:
    return [as_override(change) for change in changes]
