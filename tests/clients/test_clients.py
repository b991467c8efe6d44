"""The server and its packaging before outside judges: the official conformance suite, the inspector, real clients.

These need Node: `make test-clients` installs the programs and runs this folder, `make test` leaves it out.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mcp_server.catalogue import collect_tools
from oxrl_core.agent_clients import CLIENTS, install, server_command, uninstall

ROOT = Path(__file__).resolve().parents[2]
Node = Callable[..., subprocess.CompletedProcess[str]]
CONFORMANCE_CHECKS, CONFORMANCE_CHECKS_2026 = 40, 150


@pytest.fixture
def conformance_url() -> Iterator[str]:
    """The server with the suite's fixtures, over HTTP on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "conformance_server.py"), str(port)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    deadline = time.monotonic() + 60
    try:
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None and time.monotonic() < deadline, "the conformance server has not come up"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.terminate()
        process.wait(timeout=20)


def failed_in(out: str) -> set[str]:
    """The scenarios of a summary that did not pass."""
    return {match[1] for match in re.finditer(r"^\s*✗ ([\w-]+)", out, re.MULTILINE)}


def test_the_official_conformance_suite_passes_whole(node: Node, conformance_url: str) -> None:
    ran = node("@modelcontextprotocol/conformance/dist/index.js", "server", "--url", conformance_url)
    total = re.search(r"Total: (\d+) passed, (\d+) failed", ran.stdout)
    assert total, ran.stdout[-3000:]
    assert (int(total[1]), failed_in(ran.stdout), ran.returncode) == (CONFORMANCE_CHECKS, set(), 0)


def test_all_that_the_version_without_a_handshake_requires_passes(node: Node, conformance_url: str) -> None:
    suite = "conformance-2026/dist/index.js"
    ran = node(suite, "server", "--url", conformance_url, "--suite", "all", "--spec-version", "2026-07-28")
    total = re.search(r"Total: (\d+) passed, (\d+) failed", ran.stdout)
    assert total, ran.stdout[-3000:]
    assert (int(total[1]), failed_in(ran.stdout)) == (CONFORMANCE_CHECKS_2026, set()), ran.stdout[-3000:]


def inspect(node: Node, *words: str) -> subprocess.CompletedProcess[str]:
    return node("mcp-inspector", "--cli", *server_command(), *words, "--format", "json", "-q")


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_the_inspectors_strict_lint_finds_no_error_and_nothing_in_an_input_schema(node: Node, era: str) -> None:
    ran = inspect(node, "--protocol-era", era, "--method", "tools/list", "--strict")
    assert ran.returncode == 0, ran.stdout[-3000:]
    document, _ = json.JSONDecoder().raw_decode(ran.stdout[ran.stdout.index("{") :])
    assert [tool["name"] for tool in document["result"]["tools"]] == list(collect_tools())
    said = re.findall(r"Path: (\S+)\n\s+Issue: (.*)", ran.stdout)
    # null is how JSON says that a metric is not finite; no host sends output schemas to a model.
    others = [path for path, issue in said if not (path.startswith("outputSchema") and "is an array" in issue)]
    assert others == []


def test_the_inspector_tells_an_answer_from_a_tools_error_by_its_exit_code(node: Node) -> None:
    def call(tool: str, arguments: str) -> subprocess.CompletedProcess[str]:
        return inspect(node, "--method", "tools/call", "--tool-name", tool, "--tool-args-json", arguments)

    assert call("list_runs", '{"limit": 1}').returncode == 0
    missing = call("get_run", '{"run_id": "no-such-run"}')
    assert missing.returncode == 5 and "NotFoundError" in missing.stdout


def test_the_inspector_reads_a_page_and_a_prompt(node: Node) -> None:
    page = inspect(node, "--method", "resources/read", "--uri", "oxrl://docs/workflow")
    assert page.returncode == 0 and "launch_run" in page.stdout
    prompt = inspect(node, "--method", "prompts/get", "--prompt-name", "debug_run", "--prompt-args", "run_id=r-1")
    assert prompt.returncode == 0 and "diagnose_run" in prompt.stdout


def test_claude_code_connects_to_what_the_install_command_wrote(node: Node, user: Path) -> None:
    client = CLIENTS["claude"]
    install(client, user / client.user_file, client.entry(server_command(), {"OXRL_HOME": str(user / "runs")}))
    ran = node("claude", "mcp", "list")
    assert re.search(r"oxrl:.*Connected", ran.stdout), ran.stdout
    assert uninstall(client, user / client.user_file).action == "removed"
    assert "oxrl" not in node("claude", "mcp", "list").stdout


def test_gemini_connects_to_what_the_install_command_wrote(node: Node, user: Path, tmp_path: Path) -> None:
    client = CLIENTS["gemini"]
    path = client.path(project=True, folder=tmp_path / "project", home=user)
    install(client, path, client.entry(server_command(), {"OXRL_HOME": str(user / "runs")}))
    ran = node("gemini", "mcp", "list")
    assert re.search(r"oxrl:.*Connected", ran.stdout), ran.stdout
    assert uninstall(client, path).action == "removed"
    assert "oxrl" not in node("gemini", "mcp", "list").stdout


def packaged(folder: Path) -> Path:
    """A new folder with what the manifests refer to, and nothing else."""
    folder.mkdir()
    for name in (".claude-plugin", "skills", ".mcp.json", "gemini-extension.json", "README.md", "bootstrap.sh"):
        source, target = ROOT / name, folder / name
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    return folder


def test_the_claude_plugin_and_its_marketplace_are_valid(node: Node, tmp_path: Path) -> None:
    folder = packaged(tmp_path / "plugin")
    for manifest in (".claude-plugin/marketplace.json", ".claude-plugin/plugin.json"):
        ran = node("claude", "plugin", "validate", folder / manifest)
        assert ran.returncode == 0 and "Validation passed" in ran.stdout, ran.stdout
    assert "mcpServers: oxrl" in ran.stdout and "skills: oxrl:oxrl" in ran.stdout


def test_an_installed_claude_plugin_starts_the_server_of_its_own_folder(node: Node, tmp_path: Path) -> None:
    folder = packaged(tmp_path / "plugin")
    # The set-up is proven by every other target; here only that the plugin finds its own folder.
    (folder / "bootstrap.sh").write_text(f"#!/bin/sh\nexec {' '.join(server_command())}\n")
    ran = node("claude", "plugin", "marketplace", "add", folder)
    assert ran.returncode == 0, ran.stdout
    ran = node("claude", "plugin", "install", "oxrl@oxrl")
    assert ran.returncode == 0, ran.stdout
    ran = node("claude", "mcp", "list")
    assert re.findall(r"oxrl:.*bootstrap.sh.*Connected", ran.stdout), ran.stdout
    assert ran.stdout.count("bootstrap.sh") == 1, "one server, not one of each manifest"


def test_the_gemini_extension_is_valid_and_starts_the_server(node: Node, tmp_path: Path) -> None:
    folder = packaged(tmp_path / "extension")
    (folder / "bootstrap.sh").write_text(f"#!/bin/sh\nexec {' '.join(server_command())}\n")
    ran = node("gemini", "extensions", "validate", folder)
    assert ran.returncode == 0 and "successfully validated" in ran.stdout, ran.stdout
    ran = node("gemini", "extensions", "install", folder, "--consent", "--skip-settings")
    assert ran.returncode == 0, ran.stdout
    ran = node("gemini", "mcp", "list")
    assert re.search(r"oxrl.*Connected", ran.stdout), ran.stdout


def test_the_bundle_is_valid_and_holds_the_server_without_the_rest(node: Node, tmp_path: Path) -> None:
    ran = node("mcpb", "validate", ROOT / "mcpb" / "manifest.json")
    assert ran.returncode == 0 and "passes" in ran.stdout, ran.stdout
    folder, bundle = tmp_path / "bundle", tmp_path / "oxrl.mcpb"
    made = [sys.executable, str(ROOT / "scripts/mcp_packaging.py"), "--bundle", str(folder)]
    subprocess.run(made, check=True, timeout=120, capture_output=True)
    ran = node("mcpb", "pack", folder, bundle)
    assert ran.returncode == 0, ran.stdout
    names = set(zipfile.ZipFile(bundle).namelist())
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {"manifest.json", "pyproject.toml", manifest["server"]["entry_point"]} <= names
    assert not [name for name in names if name.startswith((".venv", "tests/", ".git/"))]
    assert bundle.stat().st_size < 20_000_000
