"""A run that has ended goes on in its own directory; what cannot go on says why."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from oxrl_core.errors import ConfigError
from oxrl_core.runs import launch
from oxrl_core.runs.records import read_json
from oxrl_core.runs.rundir import RunDir
from oxrl_core.runs.supervision.resume import resume

# Counts its starts in a file of the run, as a training driver goes on from its checkpoint.
DRIVER = """
import os, sys, time, signal
from pathlib import Path
from oxrl_core.runs.rundir import RunDir
run = RunDir(Path(os.environ["OXRL_HOME"]) / "runs" / os.environ["OXRL_RUN_ID"])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
starts = run.path / "starts"
count = len(starts.read_text()) + 1 if starts.exists() else 1
starts.write_text("x" * count)
run.write_progress("training", count, 10)
if count >= {last}:
    run.write_progress("finished", 10, 10)
    sys.exit(0)
{then}
"""
CONFIG = "run: {name: test}\nmodel: {path: 'miniature:chars'}\ndata: {train: reverse3}\n"


@pytest.fixture
def started(make_run: Callable[..., RunDir]) -> Callable[..., RunDir]:
    def start(then: str = "time.sleep(60)", last: int = 2, **spec: Any) -> RunDir:
        run = make_run(DRIVER.format(then=then, last=last), resumes=True, **spec)
        (run.path / "config.yaml").write_text(_resolved())
        launch.launch(run)
        return run

    return start


def _resolved() -> str:
    from oxrl_core.config.load import config_to_yaml, load_config

    return config_to_yaml(load_config(CONFIG).config)


def wait(run: RunDir, *states: str) -> str:
    deadline = time.monotonic() + 30
    while run.status().state not in states:
        assert time.monotonic() < deadline, run.status()
        time.sleep(0.05)
    return run.status().state


def wait_for_starts(run: RunDir, count: int) -> None:
    deadline = time.monotonic() + 30
    while not (run.path / "starts").exists() or len((run.path / "starts").read_text()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_stopped_run_goes_on_in_place_and_a_living_or_finished_one_does_not(started: Callable[..., RunDir]) -> None:
    run = started(last=3)
    wait_for_starts(run, 1)
    assert resume(run)[1] is False, "it lives"
    launch.stop(run, "a test")
    status, is_new = resume(run)
    assert is_new and status.state in ("starting", "running") and not (run.path / "stop.json").exists()
    wait_for_starts(run, 2)
    launch.stop(run, "again")
    assert resume(run)[1]
    assert wait(run, "finished") == "finished"
    record = read_json(run.path / "status.json") or {}
    assert [one["stop_reason"] for one in record["resumed"]] == ["a test", "again"]
    with pytest.raises(ConfigError, match="has finished"):
        resume(run)
    assert (run.path / "starts").read_text() == "xxx"


def test_a_failed_run_goes_on_and_its_error_is_gone(started: Callable[..., RunDir]) -> None:
    run = started(then="run.write_error({'code': 'X', 'what': 'bad', 'where': '', 'next': ''}); sys.exit(1)")
    assert wait(run, "failed") == "failed"
    assert resume(run)[1]
    assert wait(run, "finished", "failed") == "finished"
    assert run.status().error is None


def test_two_that_resume_at_once_start_it_once(started: Callable[..., RunDir]) -> None:
    run = started(last=9)
    wait_for_starts(run, 1)
    launch.stop(run, "a test")
    threads = [threading.Thread(target=resume, args=(run,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    wait_for_starts(run, 2)
    time.sleep(0.5)
    assert (run.path / "starts").read_text() == "xx"


def test_a_spent_budget_is_not_spent_again(started: Callable[..., RunDir]) -> None:
    run = started(max_hours=0.0001)
    wait(run, "stopped")
    with pytest.raises(ConfigError, match="budget"):
        resume(run)


def test_what_has_no_checkpoint_is_refused(make_run: Callable[..., RunDir]) -> None:
    run = make_run("import time; time.sleep(60)", kind="replay")
    launch.launch(run)
    launch.stop(run, "a test")
    with pytest.raises(ConfigError, match="no checkpoints"):
        resume(run)
