"""The evidence of an entry: <registry>/evidence/<slug>.json, and whether it is about the entry as it stands."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from oxrl_core.config.registry import MODELS, registry_folder, registry_folders, user_registry
from oxrl_core.config.templates import chat_template_of
from oxrl_core.errors import OxrlError
from oxrl_core.runs.records import read_json, write_text
from swarm.onboard.criteria import VERSION, Criterion, Verification
from swarm.registry.facts import NEEDED

FOLDER = "evidence"


class Evidence(Verification):
    """A verification, and the entry that it is about."""

    entry_hash: str
    """Of the facts of the entry and the text of its chat template."""


def entry_hash(entry: Mapping[str, Any]) -> str:
    """Changes with every fact of an entry, with its configuration, and with the text of its chat template."""
    facts = {key: entry.get(key) for key in (*NEEDED, "config") if key != "summary"}
    try:
        facts["template_text"] = chat_template_of(dict(entry))
    except OxrlError:
        facts["template_text"] = ""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def read_evidence(slug: str) -> list[Evidence]:
    """What is kept about an entry, the user's own first."""
    found: list[Evidence] = []
    for folder in reversed(registry_folders()):
        record = read_json(folder / FOLDER / f"{slug}.json")
        if record is not None:
            try:
                found.append(Evidence.model_validate(record))
            except ValidationError:
                continue  # of another version: it says nothing about this one
    return found


def check_evidence(slug: str, entry: Mapping[str, Any]) -> Criterion:
    """Whether the evidence that is kept is about this entry, and says that it is verified."""
    digest, kept = entry_hash(entry), read_evidence(slug)
    about = next((one for one in kept if one.entry_hash == digest and one.version == VERSION), None)
    passed = about is not None and about.verified
    if about is not None:
        value = f"{about.level}, entry {digest}"
    elif kept:
        value = f"entry {digest}; the evidence is about {kept[0].entry_hash}"
    else:
        value = "there is none"
    return Criterion(
        name="evidence", passed=passed, value=value, limit="evidence about the entry as it stands",
        evidence=f"{FOLDER}/{slug}.json",
    )  # fmt: skip


def write_evidence(slug: str, evidence: Evidence) -> Path:
    """The file, beside the entry: in our registry, or in the user's own where the entry stands there alone."""
    ours = (registry_folder() / MODELS / f"{slug}.yaml").is_file()
    path = (registry_folder() if ours else user_registry()) / FOLDER / f"{slug}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(evidence.model_dump(mode="json"), indent=1) + "\n")
    return path
