"""No answer is older than the files, whatever the server keeps: runs that change between two calls, by any hand."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client

from mcp_server.server import build_server
from oxrl_core import api
from oxrl_core.runs.records import write_json, write_text
from oxrl_core.runs.rundir import RunDir

STATES = ("finished", "failed", "stopped")
OTHER_PROCESS = "import sys; from pathlib import Path; from oxrl_core import api; print(api.{}(home=Path(sys.argv[1])))"


def add_run(home: Path, number: int) -> RunDir:
    run = RunDir(home / "runs" / f"r-260101-{number:06d}-abcd")
    run.path.mkdir(parents=True)
    run.write_progress("finished", 3, 3, {"reward/mean": 0.5, "loss": 1 / 3})
    end_run(run, "finished")
    write_json(run.path / "spec.json", {"kind": "rl", "name": "r", "created_at": time.time()})
    os.utime(run.path / "spec.json", (1e9 + number, 1e9 + number))
    return run


def end_run(run: RunDir, state: str) -> None:
    """As a supervisor ends one that had gone on."""
    write_json(run.path / "status.json", {"state": state, "started_at": 1.0, "ended_at": 2.0, "exit_code": 0})
    run.tell_going_on()


def in_another_process(name: str, home: Path) -> None:
    command = [sys.executable, "-c", OTHER_PROCESS.format(name), str(home)]
    environment = {**os.environ, "PYTHONPATH": str(Path(api.__file__).parents[2])}
    subprocess.run(command, check=True, capture_output=True, timeout=60, env=environment)


async def ask(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    content: Any = result.content[0]
    assert json.loads(content.text) == result.structured_content
    return result.structured_content or {}


def expected(home: Path, state: str) -> list[tuple[str, str, int, dict[str, Any]]]:
    """What the run directories say, each read for itself."""
    found: list[tuple[str, str, int, dict[str, Any]]] = []
    for path in sorted((home / "runs").iterdir(), reverse=True):
        view = api.get_run(path.name, home=home)
        if state in ("any", view.state) or (state == "active" and not view.has_ended):
            metrics = {name: float(f"{value:.6g}") for name, value in view.metrics.items() if value is not None}
            found.append((view.run_id, view.state, view.step, metrics))
    return found


def test_after_any_change_the_next_list_is_that_of_the_files(home: Path) -> None:
    chance = random.Random(7)
    runs = [add_run(home, number) for number in range(12)]

    def change(step: int) -> None:
        run = chance.choice(runs)
        kind = chance.randrange(7)
        if kind == 0:
            runs.append(add_run(home, 100 + step))
        elif kind == 1 and len(runs) > 4:
            runs.remove(run)
            shutil.rmtree(run.path)
        elif kind == 2:  # it goes on, and ends again with another number of steps
            run.write_progress("finished", step, 99, {"reward/mean": step / 7})
            end_run(run, chance.choice(STATES))
        elif kind == 3 and step < 20:
            in_another_process("list_runs", home)  # writes into the index
        elif kind == 4:
            (home / "index.db").unlink(missing_ok=True)
        elif kind == 5:
            with sqlite3.connect(home / "index.db") as connection:
                connection.execute("create table if not exists notes (text)")
                connection.execute("insert into notes values ('of somebody else')")
            connection.close()
        else:
            end_run(run, chance.choice(STATES))

    async def go() -> None:
        async with Client(build_server()) as client:
            for step in range(50):
                change(step)
                state = chance.choice(("any", "any", "finished", "failed", "active"))
                for _ in range(2):
                    shown = await ask(client, "list_runs", state=state, limit=50)
                    told = [(one["run_id"], one["state"], one["step"], one.get("metrics", {})) for one in shown["runs"]]
                    assert told == expected(home, state), f"after change {step}"
                    assert shown["total"] == len(runs)

    anyio.run(go)


def test_metrics_and_logs_are_those_of_this_moment(home: Path) -> None:
    run = add_run(home, 1)
    (run.path / "logs").mkdir()
    log, metrics = run.path / "logs" / "driver.log", run.path / "metrics.jsonl"

    async def go() -> None:
        async with Client(build_server()) as client:
            for step in range(1, 40):
                run.append_metrics({"step": step, "loss": step / 3})
                with log.open("a") as file:
                    file.write(f"line {step}\n")
                view = await ask(client, "get_metrics", run_id=run.run_id, names=["loss"])
                assert (view["total_rows"], view["summary"]["loss"]["last"]) == (step, float(f"{step / 3:.6g}"))
                assert (await ask(client, "read_logs", run_id=run.run_id, lines=1))["lines"] == [f"line {step}"]
            # Gone back to a checkpoint: the same size is no sign that nothing has changed.
            text = metrics.read_text()
            write_text(metrics, text.replace('"loss": 0.3', '"loss": 0.4'))
            view = await ask(client, "get_metrics", run_id=run.run_id, names=["loss"])
            assert metrics.stat().st_size == len(text) and view["summary"]["loss"]["first"] == pytest.approx(0.433333)

    anyio.run(go)


def test_a_run_that_goes_on_after_its_end_is_active_at_once(home: Path, start: Callable[..., RunDir]) -> None:
    run = start(steps=2000, seconds=0.05)
    spec = json.loads((run.path / "spec.json").read_text())
    write_json(run.path / "spec.json", {**spec, "resumable": True})
    api.stop_run(run.run_id, force=True, home=home)
    past = time.time() - 60
    os.utime(home / "runs", (past, past))  # long settled

    async def go() -> None:
        async with Client(build_server()) as client:
            for state, count in (("any", 1), ("active", 0), ("stopped", 1)):
                assert len((await ask(client, "list_runs", state=state))["runs"]) == count
            assert (await ask(client, "rerun", run_id=run.run_id, mode="resume"))["created"]
            for state, count in (("active", 1), ("stopped", 0), ("any", 1)):
                assert len((await ask(client, "list_runs", state=state))["runs"]) == count, state

    anyio.run(go)
