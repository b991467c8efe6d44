"""Files of a run that were torn or overwritten: every reader answers, or says in words what it cannot read."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oxrl_core import api
from oxrl_core.config.load import load_config
from oxrl_core.errors import OxrlError
from oxrl_core.rollout.recorder import Recorder, StepRecord
from oxrl_core.runs import index, launch
from oxrl_core.runs.records import write_json
from oxrl_core.runs.replay import RESULT_FILE
from oxrl_core.runs.rundir import RunDir
from oxrl_core.types import Credit, Prompt, Rollout, Score

CONFIG = {"run": {"name": "worn"}, "model": {"path": "miniature:chars"}, "data": {"train": "reverse3"}}
READERS: dict[str, Callable[[str, Path], Any]] = {
    "get": lambda run_id, home: api.get_run(run_id, home=home),
    "list": lambda run_id, home: api.list_runs(home=home),
    "metrics": lambda run_id, home: api.get_metrics(run_id, home=home),
    "logs": lambda run_id, home: api.read_logs(run_id, home=home),
    "rollouts": lambda run_id, home: api.list_rollouts(run_id, home=home, step="all"),
    "diagnose": lambda run_id, home: api.diagnose_run(run_id, home=home),
    "report": lambda run_id, home: api.write_report(run_id, home=home),
    "stop": lambda run_id, home: api.stop_run(run_id, home=home),
    "replay": lambda run_id, home: api.get_replay(run_id, home=home),
    "rebuild": lambda run_id, home: api.rebuild_index(home=home),
}
FILES = [
    *("spec.json", "config.yaml", "status.json", "progress.json", "error.json", "stop.json", RESULT_FILE),
    *("environment.json", "metrics.jsonl", "events.jsonl", "logs/driver.log", "rollouts/step-00000002.parquet"),
    "rollouts/tokenizer.json",
]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run that has failed after three steps, and has every file that a run can have."""
    run = RunDir.create(tmp_path, load_config(CONFIG), "rl")
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 2, "b": 3}}}))
    recorder = Recorder(run.rollouts, tokenizer_file=tmp_path / "tokenizer.json")
    for step in (1, 2, 3):
        one = Rollout(Prompt("d/train/1", [5], "a"), 0, [2, 3], [-1.0, -2.0], "stop", 3, 0, "ab", Score(1.0))
        recorder.write(StepRecord(step, [one], [one], [Credit([0.5, 0.5])], [[-1.0, -2.0]]))
        run.append_metrics({"step": step, "time": time.time(), "loss": 1.0 / step, "reward/mean": 0.1 * step})
        run.append_event("warning", "slow_step", f"step {step} took long", step=step)
        run.write_progress("training", step, 9, {"loss": 1.0 / step})
    recorder.close()
    (run.logs / "driver.log").write_text("one\ntwo\nthree\n")
    run.write_error({"code": "NumericsError", "what": "the loss is not finite", "where": "step 3", "next": "lower it"})
    error = {"code": "NumericsError", "what": "the loss is not finite", "where": "step 3", "next": "lower it"}
    record = {"state": "failed", "started_at": 1.0, "ended_at": 2.0, "error": error, "failures": [], "exit_code": 1}
    write_json(run.path / "status.json", record)
    write_json(run.path / "stop.json", {"reason": "x", "grace_seconds": 1.0})
    write_json(run.path / "environment.json", {"python": "3"})
    write_json(run.path / RESULT_FILE, {"run_id": run.run_id, "of": run.run_id, "step": 1})
    (run.path / ".lock").touch()
    return run


def answers(run: RunDir) -> dict[str, Any]:
    """What each reader answers: a view, or an error of ours. Any other error fails the test."""
    found: dict[str, Any] = {}
    for name, read in READERS.items():
        try:
            found[name] = read(run.run_id, run.home)
        except OxrlError as error:
            assert error.what and error.next_step, (name, error)
            found[name] = error
    return found


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_torn_empty_or_rubbish_fails_no_reader(run: RunDir, name: str) -> None:
    whole = (run.path / name).read_bytes()
    rubbish = (b"", whole[: len(whole) // 2], b"\xff\x00" * 40, b"[1, 2]\n", b"{}\n")
    for content in rubbish:
        (run.path / name).write_bytes(content)
        found = answers(run)
        assert found["list"].total == 1
        if name not in ("spec.json", "status.json"):
            assert found["get"].state == "failed", content
    (run.path / name).write_bytes(whole)
    assert answers(run)["get"].state == "failed"


@pytest.mark.parametrize("name", ["metrics.jsonl", "events.jsonl"])
def test_of_torn_lines_the_whole_ones_count_wherever_the_tear_is(run: RunDir, name: str) -> None:
    path = run.path / name
    whole = path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == 10]
    read = run.metrics if name == "metrics.jsonl" else run.events
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        # A line whose last brace is there is whole, with or without its end.
        assert len(read()) == sum(end - 1 <= cut for end in ends), cut
        assert cut >= run.events_size() if name == "events.jsonl" else True
    again = RunDir(run.path)  # the writer after the one that died inside the line
    path.write_bytes(whole[:-5])
    if name == "metrics.jsonl":
        again.append_metrics({"step": 4})
        assert [row["step"] for row in again.metrics()] == [1, 2, 4]
    else:
        again.append_event("error", "new", "after the tear")
        assert again.events()[-1]["code"] == "new"
        assert len(again.events()) == len(ends)


def test_a_locked_index_costs_the_time_of_its_deadline_and_no_answer(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_BUSY_SECONDS", 0.2)
    assert api.list_runs(home=run.home).total == 1
    other = sqlite3.connect(run.home / index.FILE, isolation_level=None)
    other.execute("begin exclusive")
    try:
        began = time.monotonic()
        listed = api.list_runs(home=run.home)
        assert [view.state for view in listed.runs] == ["failed"]
        assert time.monotonic() - began < 10
        assert launch.find_run(run.home, "worn").run_id == run.run_id
    finally:
        other.close()
    assert api.list_runs(home=run.home).total == 1
