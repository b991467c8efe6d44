"""The surface that agents see: every schema against its snapshot, the rules that all hosts share, and what it costs.

A wanted change of the surface is taken over with: OXRL_UPDATE_SNAPSHOTS=1 pytest tests/mcp_server/test_surface.py
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.types import Tool

from mcp_server.catalogue import LONGEST_DESCRIPTION, collect_tools
from mcp_server.server import INSTRUCTIONS, build_server

SNAPSHOTS = Path(__file__).parent / "snapshots"
NAMES = list(collect_tools())
ASKED_FOR = {
    "check_environment",
    "validate_config",
    "launch_run",
    "get_run",
    "watch_run",
    "stop_run",
    "get_metrics",
    "read_logs",
}
CORE = {"check_environment", "validate_config", "launch_run", "get_run", "watch_run", "read_logs"}

# What a model API of any host understands; everything else has made some host refuse every call.
ALLOWED_KEYS = {
    "type",
    "description",
    "default",
    "enum",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "pattern",
    "items",
    "minItems",
    "maxItems",
    "properties",
    "required",
}


@cache
def tools() -> dict[str, Tool]:
    async def go() -> list[Tool]:
        async with Client(build_server(environment={})) as client:
            return (await client.list_tools()).tools

    return {tool.name: tool for tool in anyio.run(go)}


def tokens(value: Any) -> float:
    """An estimate from above: JSON and English have four characters a token or more."""
    return len(value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))) / 4


def test_the_tools_are_there_in_the_same_order_every_time() -> None:
    assert set(NAMES) >= ASKED_FOR
    assert list(tools()) == NAMES == list(collect_tools())


@pytest.mark.parametrize("name", NAMES)
def test_a_tools_schema_is_its_snapshot(name: str) -> None:
    seen = tools()[name].model_dump(mode="json", by_alias=True, exclude_none=True)
    file = SNAPSHOTS / f"{name}.json"
    text = json.dumps(seen, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    if os.environ.get("OXRL_UPDATE_SNAPSHOTS"):
        file.write_text(text, encoding="utf-8")
    assert file.exists(), f"{name} has no snapshot; OXRL_UPDATE_SNAPSHOTS=1 writes it"
    assert file.read_text(encoding="utf-8") == text, (
        "the surface has changed; if that is wanted: OXRL_UPDATE_SNAPSHOTS=1"
    )


def test_no_snapshot_is_left_of_a_tool_that_is_gone() -> None:
    assert {file.stem for file in SNAPSHOTS.glob("*.json")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_input_schemas_keep_to_what_every_host_understands(name: str) -> None:
    def check(schema: dict[str, Any]) -> None:
        assert set(schema) <= ALLOWED_KEYS, set(schema) - ALLOWED_KEYS
        assert isinstance(schema["type"], str)
        assert schema.get("default", "") is not None
        assert "enum" not in schema or all(isinstance(value, str) for value in schema["enum"])
        for property_name, one in schema.get("properties", {}).items():
            assert property_name != "title"
            assert one.get("description"), f"{property_name} is not described"
            check(one)
        if "items" in schema:
            check(schema["items"])

    schema = tools()[name].input_schema
    assert schema["type"] == "object"
    check(schema)


@pytest.mark.parametrize("name", NAMES)
def test_output_schemas_have_no_references_and_no_titles(name: str) -> None:
    schema = tools()[name].output_schema
    assert schema and schema["type"] == "object"
    text = json.dumps(schema)
    assert "$ref" not in text and "$defs" not in text and '"title": "' not in text


@pytest.mark.parametrize("name", NAMES)
def test_every_tool_has_a_title_a_short_description_and_four_hints(name: str) -> None:
    tool = tools()[name]
    assert tool.title and tool.description and len(tool.description) <= LONGEST_DESCRIPTION
    hints = tool.annotations
    assert hints is not None
    given = (hints.read_only_hint, hints.destructive_hint, hints.idempotent_hint, hints.open_world_hint)
    assert None not in given
    assert given[0] == (name not in ("launch_run", "stop_run")), "only these two change anything"
    assert given[1] == (name == "stop_run")
    assert ((tool.meta or {}).get("anthropic/alwaysLoad") is True) == (name in CORE)


def test_the_surface_costs_few_tokens() -> None:
    costs = {
        name: tokens({"name": name, "description": tool.description, "input": tool.input_schema})
        for name, tool in tools().items()
    }
    assert sum(costs.values()) <= 4000, costs
    assert max(costs.values()) <= 350, costs
    assert tokens(INSTRUCTIONS) <= 150
