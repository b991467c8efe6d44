"""The files by which other programs find the server: current, small, and true to the tools."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from mcp_server.catalogue import collect_tools

ROOT = Path(__file__).resolve().parents[1]
SKILL = ROOT / "skills" / "oxrl" / "SKILL.md"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
# Words of code in the skill that are neither tools nor arguments: a state, a field.
OTHER_WORDS = {"needs_input", "plan_hash"}


def read(name: str) -> Any:
    return json.loads((ROOT / name).read_text(encoding="utf-8"))


def test_every_file_is_what_the_tools_and_the_project_give_now() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/mcp_packaging.py", "--check"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", ["AGENTS.md", "skills/oxrl/SKILL.md", "llms.txt"])
def test_a_page_for_agents_is_short_and_names_every_tool(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert len(text.split()) < 600
    assert [name for name in collect_tools() if f"`{name}`" not in text] == []


def test_the_skill_names_only_tools_and_arguments_that_exist() -> None:
    import inspect

    tools = collect_tools()
    arguments = {name for facts in tools.values() for name in inspect.signature(facts.function).parameters}
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", SKILL.read_text(encoding="utf-8")))
    assert named <= set(tools) | arguments | OTHER_WORDS, named - set(tools) - arguments


def test_the_skill_says_when_it_is_for() -> None:
    head = SKILL.read_text(encoding="utf-8").split("---")[1]
    assert "name: oxrl" in head and "Use when" in head and len(head) < 1024


def test_versions_agree_everywhere() -> None:
    marketplace = read(".claude-plugin/marketplace.json")["plugins"][0]
    versions = {
        name: read(name)["version"]
        for name in (".claude-plugin/plugin.json", "gemini-extension.json", "mcpb/manifest.json", "server.json")
    }
    assert {*versions.values(), marketplace["version"], read("server.json")["packages"][0]["version"]} == {VERSION}


def test_the_registry_entry_keeps_the_registrys_rules_and_claims_nobody() -> None:
    entry = read("server.json")
    assert re.fullmatch(r"[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+", entry["name"])
    assert 1 <= len(entry["description"]) <= 100
    assert f"<!-- mcp-name: {entry['name']} -->" in (ROOT / "README.md").read_text(encoding="utf-8")
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"].get("urls")
    assert urls or entry["name"] == "io.github.OWNER/oxrl-mcp", "without an address nobody's name is taken"


def test_no_packaged_file_holds_a_secret_or_a_folder_of_this_machine() -> None:
    for name in (".mcp.json", "gemini-extension.json", "antigravity/mcp_config.json", "mcpb/manifest.json"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert str(ROOT) not in text and not re.search(r"hf_[A-Za-z0-9]{20}|gh[ps]_[A-Za-z0-9]{20}", text)


def test_serve_is_the_server_itself() -> None:
    hello = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
    }
    done = subprocess.run(
        [sys.executable, "-m", "oxrl", "mcp", "serve"],
        input=json.dumps(hello) + "\n", capture_output=True, text=True, timeout=120, check=True, cwd=ROOT,
    )  # fmt: skip
    assert json.loads(done.stdout.splitlines()[0])["result"]["serverInfo"]["name"] == "oxrl"
