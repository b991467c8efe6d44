"""The surface that agents see: every schema against its snapshot, the rules that all hosts share, and what it costs.

A wanted change of the surface is taken over with: OXRL_UPDATE_SNAPSHOTS=1 pytest tests/mcp_server/test_surface.py
"""

from __future__ import annotations

import json
import os
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.types import Tool

from mcp_server.catalogue import LONGEST_DESCRIPTION, collect_tools
from mcp_server.resources import WORKFLOW
from mcp_server.server import INSTRUCTIONS, build_server

sys.path.insert(0, str(Path(__file__).parent))  # counting.py, beside this file

from counting import tokens

SNAPSHOTS = Path(__file__).parent / "snapshots"
NAMES = list(collect_tools())
ASKED_FOR = {
    "check_environment",
    "list_registry",
    "validate_config",
    "launch_run",
    "rerun",
    "evaluate_run",
    "list_runs",
    "get_run",
    "watch_run",
    "stop_run",
    "get_metrics",
    "plot_metrics",
    "read_logs",
    "query_rollouts",
    "compare_runs",
    "diagnose_run",
    "score_completions",
}
WRITES = {
    "launch_run",
    "rerun",
    "evaluate_run",
    "stop_run",
    "generate_config",
    "onboard_model",
    "steer_onboarding",
    "draft_bug_report",
    "submit_bug_report",
}
CORE = {
    "check_environment",
    "validate_config",
    "launch_run",
    "get_run",
    "watch_run",
    "read_logs",
    "diagnose_run",
}
MOST_TOOLS = 24

# What a model API of any host understands; everything else has made some host refuse every call.
ALLOWED_KEYS = {
    "type",
    "description",
    "default",
    "enum",
    "minimum",
    "maximum",
    "items",
    "properties",
    "required",
}


@cache
def tools() -> dict[str, Tool]:
    async def go() -> list[Tool]:
        async with Client(build_server(environment={})) as client:
            return (await client.list_tools()).tools

    return {tool.name: tool for tool in anyio.run(go)}


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
    assert given[0] == (name not in WRITES), "only these change anything"
    assert given[1] == (name == "stop_run")
    assert ((tool.meta or {}).get("anthropic/alwaysLoad") is True) == (name in CORE)


def test_the_surface_costs_few_tokens() -> None:
    costs = {
        name: tokens({"name": name, "description": tool.description, "input_schema": tool.input_schema})
        for name, tool in tools().items()
    }
    assert sum(costs.values()) <= 4000, costs
    assert max(costs.values()) <= 300, costs
    assert tokens(INSTRUCTIONS) <= 150
    assert len(costs) <= MOST_TOOLS


def test_the_names_of_the_tools_in_instructions_and_texts_are_tools() -> None:
    words = set(re.findall(r"\b[a-z]+_[a-z_]+\b", INSTRUCTIONS + WORKFLOW))
    known = set(NAMES) | {"run_id", "dry_run", "plan_hash"}
    # What other packages bring may be missing in a smaller installation; the text says "where offered".
    optional = {"inspect_model", "generate_config", "onboard_model"}
    assert words - optional - known == set()


def test_what_a_schema_does_not_say_is_checked_all_the_same() -> None:
    async def go() -> list[str]:
        async with Client(build_server(environment={})) as client:
            answers = [
                await client.call_tool("get_run", {"run_id": "../etc"}),
                await client.call_tool("score_completions", {"reward": "gsm8k", "completions": []}),
            ]
            return [json.loads(answer.content[0].text)["where"] for answer in answers]

    assert anyio.run(go) == ["get_run.run_id", "score_completions.completions"]
