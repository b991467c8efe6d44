"""A driver that lives and achieves nothing: told within its limit, with all stacks, and then as the policy says."""

from __future__ import annotations

import json
import os
import signal
import textwrap
import time
from pathlib import Path

import pytest
from run_trees import MakeRun, wait_for, wait_until_ended, with_arguments

from oxrl_core.runs import launch
from oxrl_core.runs.records import write_json
from oxrl_core.runs.rundir import RunDir
from oxrl_core.runs.supervision.stall import StallLimits

# Goes through two quick steps of three phases each, then stands still for ever in the phase that is named.
HANGS = """
import sys, threading, time
from oxrl_core.runs.rundir import RunDir

def stand_still_here():
    time.sleep(600)

run = RunDir(sys.argv[1])
for step in (1, 2, 3):
    for phase in ("generating", "rewarding", "syncing", "saving"):
        run.enter_phase(phase)
        if step == 3 and phase == sys.argv[2]:
            stand_still_here()
        time.sleep(0.02)
    run.write_progress("training", step, 5)
    if step == 2 and sys.argv[2] == "training":
        stand_still_here()
"""
LIMITS = {"stall_seconds": 0.6, "start_stall_seconds": 30.0}


def stalls_of(run: RunDir) -> list[dict[str, object]]:
    return [event for event in run.events(alerts_only=True) if event["code"] == "stalled"]


@pytest.mark.parametrize("phase", ["generating", "rewarding", "training", "syncing", "saving"])
def test_a_hang_in_any_phase_is_told_with_the_line_where_it_stands(make_run: MakeRun, phase: str) -> None:
    run = with_arguments(make_run(HANGS, **LIMITS), phase)
    launch.launch(run)
    wait_for(lambda: stalls_of(run), 30)
    (event,) = stalls_of(run)
    assert (event["phase"], event["policy"]) == (phase, "alert")
    assert event["limit"] <= event["seconds"] < 10  # type: ignore[operator]  # it is flagged soon after its limit
    assert run.status().state == "stalled"
    stacks = Path(str(event["stacks"]))
    assert stacks.parent == run.path / "stalls"
    driver = run.status().driver
    assert driver
    (of_driver,) = wait_for(lambda: list(stacks.glob(f"{driver.pid}-*.txt")))
    wait_for(lambda: "stand_still_here" in of_driver.read_text())
    assert "wchan" in of_driver.read_text()


def test_a_driver_that_is_held_by_a_signal_is_told_and_moves_again(make_run: MakeRun) -> None:
    driver = """
    import sys, time
    from oxrl_core.runs.rundir import RunDir
    run = RunDir(sys.argv[1])
    for step in range(1, 2000):
        run.write_progress("training", step, 2000)
        time.sleep(0.05)
    """
    run = with_arguments(make_run(textwrap.dedent(driver), **LIMITS))
    launch.launch(run)
    wait_for(lambda: run.status().step > 3)
    pid = run.status().driver
    assert pid
    os.kill(pid.pid, signal.SIGSTOP)
    wait_for(lambda: stalls_of(run), 30)
    assert run.status().state == "stalled"
    os.kill(pid.pid, signal.SIGCONT)
    wait_for(lambda: "moving_again" in [event["code"] for event in run.events()])
    assert run.status().state == "running" and len(stalls_of(run)) == 1


def test_a_start_that_hangs_has_a_limit_of_its_own(make_run: MakeRun) -> None:
    run = make_run("import time; time.sleep(600)", stall_seconds=0.1, start_stall_seconds=1.5)
    launch.launch(run)
    time.sleep(0.8)
    assert run.status().state == "starting"
    wait_for(lambda: stalls_of(run), 30)
    assert stalls_of(run)[0]["phase"] == "starting"


def test_on_stall_stop_ends_the_run(make_run: MakeRun) -> None:
    run = with_arguments(make_run(HANGS, on_stall="stop", **LIMITS), "rewarding")
    launch.launch(run)
    status = wait_until_ended(run, 40)
    assert status.state == "stopped" and "run.on_stall" in status.stop_reason


def test_on_stall_restart_starts_it_again_until_that_is_no_use(make_run: MakeRun) -> None:
    """The second attempt stands still at the same place: a third one would as well."""
    run = with_arguments(make_run(HANGS, on_stall="restart", max_restarts=5, **LIMITS), "syncing")
    launch.launch(run)
    status = wait_until_ended(run, 60)
    assert status.state == "failed" and status.error and status.error["code"] == "Stalled"
    assert status.restarts == 1 and len(stalls_of(run)) == 2
    last = run.events()[-1]
    assert "same failure" in last["final_because"]


def test_a_clock_that_is_set_makes_no_stall_and_no_other_age(make_run: MakeRun) -> None:
    """A day forward or back: what counts is the clock of the machine, which nobody sets."""
    run = make_run(**LIMITS)
    launch.launch(run)
    wait_until_ended(run)
    for day in (-86400, 86400):
        run = make_run("import time; time.sleep(600)", **LIMITS)
        launch.launch(run)
        run.write_progress("training", 3, 9)
        run.write_progress("training", 4, 9)
        path = run.path / "progress.json"
        record = json.loads(path.read_text())
        write_json(path, {**record, "time": record["time"] + day})  # written before the clock was set
        assert run.status().state == "running"
        assert 0 <= (run.status().elapsed_seconds or -1) < 60
        launch.stop(run, "enough", 0.0)


def test_a_limit_is_ten_times_what_is_usual_and_never_below_the_floor() -> None:
    limits = StallLimits(stall_seconds=300, start_seconds=1800)
    assert limits.limit({}) == 1800  # nothing is known yet
    assert limits.limit({"phase_seconds": 2.0, "step_seconds": 5.0}) == 300
    assert limits.limit({"phase_seconds": 2.0, "step_seconds": 50.0}) == 500
    assert limits.limit({"phase_seconds": 90.0, "step_seconds": 5.0}) == 900  # saving may take longer than a step
    assert limits.limit({"step_seconds": 400.0}) == 4000
