"""Tools that say they only read write nothing; and a secret that stands everywhere in a run leaves through none."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client

from mcp_server.catalogue import collect_tools
from mcp_server.server import build_server
from oxrl_core import api
from oxrl_core.config.load import load_config
from oxrl_core.runs.export.card import model_card
from oxrl_core.runs.rundir import RunDir

# It looks like no token: only who knows the value can mask it.
SECRET = "correct-horse-7-battery"
IN_FILE = "another-staple-8-of-mine"
SERVER_FILES = {"audit.jsonl", "index.db", "index.db-journal", ".index.lock"}  # a line on the call, and a cache


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> RunDir:
    """A failed run whose name, configuration, command, log, events, metrics and error hold the secrets."""
    monkeypatch.setenv("MY_SERVICE_TOKEN", SECRET)
    monkeypatch.setenv("HOME", str(tmp_path / "person"))
    token = tmp_path / "person" / ".cache" / "huggingface" / "token"
    token.parent.mkdir(parents=True)
    token.write_text(IN_FILE)
    config = {
        "run": {"name": f"of-{SECRET}"[:40]},
        "model": {"path": "miniature:chars"},
        "data": {"train": "reverse3"},
        "reward": {"name": "positions"},
    }
    made = RunDir.create(home, load_config(config), "rl", command=["true", f"--token={SECRET}", IN_FILE])
    (made.path / "config.yaml").write_text(made.path.joinpath("config.yaml").read_text() + f"# {SECRET} {IN_FILE}\n")
    made.logs.mkdir(exist_ok=True)
    trace = f'Traceback (most recent call last):\n  File "x.py", line 1, in f\nValueError: {SECRET} and {IN_FILE}\n'
    (made.logs / "driver.log").write_text(f"using {SECRET}\nor {IN_FILE}\n{trace}", encoding="utf-8")
    for step in (1, 2):
        made.append_metrics({"step": step, "reward/mean": step / 2, f"custom/{SECRET}": 1.0})
    made.append_event("warning", "kl_high", f"the value {SECRET} and {IN_FILE}", metric="kl/ref", value=9.0, limit=1.0)
    made.write_error({"code": "DriverError", "what": f"it said {SECRET}", "where": IN_FILE, "next": f"use {SECRET}"})
    record = {"state": "failed", "started_at": 1.0, "ended_at": 2.0, "exit_code": 1, "log_tail": [SECRET, IN_FILE]}
    (made.path / "status.json").write_text(json.dumps(record))
    return made


def snapshot(home: Path) -> dict[str, bytes]:
    """Every file of the home but those that every server keeps."""
    found = (Path(folder) / name for folder, _, names in os.walk(home) for name in names)
    return {str(file): file.read_bytes() for file in found if file.name not in SERVER_FILES}


def arguments_of(tool: str, run_id: str) -> dict[str, Any]:
    """A call that goes as far as the tool can."""
    own: dict[str, dict[str, Any]] = {
        "list_registry": {"kind": "recipes"},
        "validate_config": {"config": "demo"},
        "inspect_model": {"model": "miniature:chars"},
        "scout_models": {"query": "no such model at all"},
        "score_completions": {"reward": "gsm8k", "completions": ["#### 7"], "answer": "7"},
        "plot_metrics": {"run_ids": [run_id], "name": "reward/mean"},
        "compare_runs": {"run_ids": [run_id, run_id]},
        "watch_run": {"run_id": run_id, "wait_seconds": 0},
        "list_runs": {},
        "check_environment": {},
    }
    return own.get(tool, {"run_id": run_id})


def test_tools_that_read_write_nothing_and_let_no_secret_out(
    home: Path, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    reading = [name for name, facts in collect_tools().items() if facts.hints.read_only_hint]
    shown: dict[str, str] = {}
    written: dict[str, set[str]] = {}

    async def go() -> None:
        async with Client(build_server()) as client:
            for tool in reading:
                before = snapshot(home)
                result = await client.call_tool(tool, arguments_of(tool, run.run_id))
                after = snapshot(home)
                written[tool] = {name for name in before.keys() | after if before.get(name) != after.get(name)}
                shown[tool] = result.model_dump_json()
            full = await client.call_tool("get_run", {"run_id": run.run_id, "detail": "full"})
            shown["get_run, full"] = full.model_dump_json()
            for part in ("log", "metrics.jsonl", "config.yaml"):
                shown[part] = (await client.read_resource(f"oxrl://runs/{run.run_id}/{part}")).model_dump_json()
            shown["prompt"] = (await client.get_prompt("debug_run", {"run_id": run.run_id})).model_dump_json()

    anyio.run(go)
    assert {tool: files for tool, files in written.items() if files} == {}
    assert "[redacted]" in shown["read_logs"] and "[redacted]" in shown["get_run"]
    assert {name for name, text in shown.items() if SECRET in text or IN_FILE in text} == set()
    assert SECRET not in (home / "audit.jsonl").read_text() and IN_FILE not in (home / "audit.jsonl").read_text()


def test_no_file_that_is_made_for_others_holds_a_secret(home: Path, run: RunDir, tmp_path: Path) -> None:
    page = Path(api.write_report(run.run_id, out=tmp_path / "report.html").path).read_text(encoding="utf-8")
    assert "reward/mean" in page and SECRET not in page and IN_FILE not in page
    api.diagnose_run(run.run_id)
    kept = (run.path / "diagnosis.json").read_text(encoding="utf-8")
    assert SECRET not in kept and IN_FILE not in kept
    card = model_card(run)
    assert "miniature" in card and SECRET not in card and IN_FILE not in card
