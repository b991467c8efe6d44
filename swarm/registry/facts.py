"""Whether an entry is true: its numbers against the empty architecture, its template against what is rendered."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, cast

from oxrl_core.config.templates import TURN_TOKENS, chat_template_of
from oxrl_core.errors import OxrlError
from swarm.onboard.criteria import Criterion
from swarm.scout.source import Budget
from swarm.scout.template import from_registry, probe_template, shown

NEEDED: dict[str, type | tuple[type, ...]] = {
    "hub": str, "summary": str, "license": str, "gated": bool, "modality": list, "parameters": int,
    "context_length": int, "chat_template": str, "lora_target_modules": list, "template": dict, "architecture": dict,
}  # fmt: skip
SCAN_SECONDS = 600.0
TEMPLATE_SECONDS = 10.0
HABITS = ("system_role", "default_system", "strict_alternation", "thinking")
TOWERS = {"vision_config": "image", "audio_config": "audio"}


def check_facts(entries: Mapping[str, dict[str, Any]]) -> dict[str, list[Criterion]]:
    """Slug -> the criteria on what its entry says. All architectures are built empty in one process."""
    found = {slug: [_shape(slug, entry)] for slug, entry in entries.items()}
    whole = {slug: entry for slug, entry in entries.items() if found[slug][0].passed}
    scans = scan_all({slug: entry["architecture"] for slug, entry in whole.items()})
    for slug, entry in whole.items():
        found[slug] += [*_architecture(entry, scans.get(slug) or {}), _template(entry)]
    return found


def scan_all(configs: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Slug -> what the empty architecture has, or {"error": ...}."""
    if not configs:
        return {}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "oxrl_core.models.scan", "--many"],
            input=json.dumps(configs),
            capture_output=True,
            text=True,
            timeout=SCAN_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {slug: {"error": f"not counted within {SCAN_SECONDS:g} s"} for slug in configs}
    answers = [cast("dict[str, Any]", json.loads(line)) for line in done.stdout.splitlines() if line.startswith("{")]
    return {str(answer.pop("name")): answer for answer in answers if "name" in answer}


def _shape(slug: str, entry: Mapping[str, Any]) -> Criterion:
    """Every key is there and of its kind, and the entry has the name of its model."""
    wrong = [key for key, kind in NEEDED.items() if not isinstance(entry.get(key), kind)]
    if not wrong and str(entry["hub"]).rstrip("/").rsplit("/", 1)[-1].lower() != slug:
        wrong.append(f"hub {entry['hub']} is not {slug}")
    if not wrong:
        config = cast("dict[str, Any]", entry["architecture"])
        said = {"text", *(kind for key, kind in TOWERS.items() if key in config)}
        if said != set(cast("list[str]", entry["modality"])):
            wrong.append(f"modality {entry['modality']}; its config.json has {sorted(said)}")
    value = "; ".join(wrong) or f"{len(NEEDED)} keys"
    return Criterion(name="entry", passed=not wrong, value=value, limit="whole and consistent", evidence=f"{slug}.yaml")


def _architecture(entry: Mapping[str, Any], scan: Mapping[str, Any]) -> list[Criterion]:
    """Parameters, class, adapters and context, of the architecture that is built without weights."""
    by = "python -m oxrl_core.models.scan"
    config = cast("dict[str, Any]", entry["architecture"])
    counted = scan.get("parameters")
    shown_count = f"{counted:,}" if isinstance(counted, int) else str(scan.get("error") or "not built")
    said = cast("int", entry["parameters"])
    parameters = Criterion(
        name="parameters", passed=counted == said, value=shown_count, limit=f"{said:,}, as stated", evidence=by
    )
    named = cast("list[str]", config.get("architectures") or [])
    built = str(scan.get("architecture") or "none")
    known = set(cast("list[str]", scan.get("linear") or []))
    missing = [name for name in cast("list[str]", entry["lora_target_modules"]) if name not in known]
    text = cast("dict[str, Any]", config.get("text_config") or config)
    positions = text.get("max_position_embeddings") or config.get("max_position_embeddings")
    context = cast("int", entry["context_length"])
    fits = not isinstance(positions, int) or 0 < context <= positions
    return [
        parameters,
        Criterion(
            name="architecture", passed=built in named, value=built, limit=", ".join(named) or "none", evidence=by
        ),
        Criterion(
            name="adapters", passed=not missing, value=f"{', '.join(missing)} missing" if missing else "all there",
            limit="every target is a linear layer", evidence=by,
        ),
        Criterion(
            name="context", passed=fits, value=f"{context:,}", evidence="architecture.max_position_embeddings",
            limit=f"at most {positions:,}" if isinstance(positions, int) else "not said",
        ),
    ]  # fmt: skip


def _template(entry: Mapping[str, Any]) -> Criterion:
    """The family's template does what the entry says that it does."""
    said = from_registry(dict(entry))
    by = f"registry/templates/{entry['chat_template']}.jinja, rendered"
    try:
        text = chat_template_of(dict(entry))
    except OxrlError as error:
        return Criterion(name="template", passed=False, value=error.what, limit="a known family", evidence=by)
    end = TURN_TOKENS[str(entry["chat_template"])][2]
    seen = probe_template(text, "", end, None, Budget(TEMPLATE_SECONDS))
    wrong = [
        f"{habit} {getattr(seen, habit)}, not {getattr(said, habit)}"
        for habit in HABITS
        if getattr(seen, habit) != getattr(said, habit)
    ]
    if seen.generation_prompt != shown(said.generation_prompt):
        wrong.append(f"generation prompt {seen.generation_prompt!r}")
    if seen.ends_with_eos is False:
        wrong.append(f"an answer does not end with {end}")
    if seen.error:
        wrong = [seen.error]
    return Criterion(
        name="template", passed=not wrong, value="; ".join(wrong) or "as stated", limit="the habits of the entry",
        evidence=by,
    )  # fmt: skip
