"""The configuration of a run by dotted key, as it was written: that of an older version need not be valid today."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from oxrl_core.errors import UserError
from oxrl_core.runs.rundir import RunDir


def config_text(run: RunDir) -> str:
    """config.yaml as text; empty where it cannot be read."""
    try:
        return (run.path / "config.yaml").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def settings_of(run: RunDir) -> dict[str, Any]:
    """Dotted key -> value, entries of lists by position (data.train.0.name); empty where there is no readable file."""
    from oxrl_core.config.yaml_text import read_mapping

    try:
        return _flat(read_mapping(config_text(run), str(run.path / "config.yaml")).mapping, "")
    except UserError:
        return {}


def _flat(mapping: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, dict) and value:
            flat |= _flat(cast("dict[str, Any]", value), f"{prefix}{key}.")
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in cast("list[Any]", value)):
            for place, item in enumerate(cast("list[dict[str, Any]]", value)):
                flat |= _flat(item, f"{prefix}{key}.{place}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value) if isinstance(value, list | dict) else value
    return flat


def default_of(key: str, settings: Mapping[str, Any]) -> Any:
    """What a key means that a configuration of an older version did not have; "-" where nothing says so."""
    from oxrl_core.algorithms.base import get_algorithm
    from oxrl_core.config.keys import section_of

    section, _, name = key.rpartition(".")
    holder = section_of(key)
    field = holder.model_fields.get(name) if holder else None
    if field is not None and not field.is_required():
        value = field.get_default(call_default_factory=True, validated_data={})
        return json.dumps(value) if isinstance(value, list | tuple | dict) else value
    if section == "algorithm":
        try:
            return get_algorithm(str(settings.get("algorithm.name", ""))).params.get(name, "-")
        except UserError:  # somebody's own loss, which is not here
            return "-"
    return "-"
