"""Runs without a supervisor: orphaned, lost, started by hand, or with one that no longer listens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from run_trees import NASTY_TREE, SLEEP, MakeRun, exists, nasty_pids, stop_twice, wait_for, wait_until_ended

from oxrl_core import api
from oxrl_core.runs import launch, process
from oxrl_core.runs.records import write_json


def test_without_its_supervisor_a_run_is_orphaned_and_stop_still_ends_it(make_run: MakeRun) -> None:
    run = make_run(NASTY_TREE)
    launch.launch(run)
    pids = nasty_pids(run)
    supervisor = run.status().supervisor
    assert supervisor
    # Its next heartbeat knows the tree, also the daemon that hides its environment.
    wait_for(lambda: set(pids) <= {pid for pid, _ in json.loads((run.path / "status.json").read_text())["processes"]})
    os.kill(supervisor.pid, signal.SIGKILL)
    wait_for(lambda: not process.is_alive(supervisor))
    status = run.status()
    assert status.state == "orphaned" and status.error and status.error["next"]
    status = launch.stop(run, "tidy up")
    assert (status.state, status.stop_reason) == ("stopped", "tidy up")
    assert [pid for pid in pids if exists(pid)] == []


def test_two_stops_of_an_orphan_at_once_end_alike(make_run: MakeRun) -> None:
    run = make_run(SLEEP)
    launch.launch(run)
    supervisor = run.status().supervisor
    assert supervisor
    os.kill(supervisor.pid, signal.SIGKILL)
    wait_for(lambda: run.status().state == "orphaned")
    assert stop_twice(run) == ["stopped", "stopped"]


def test_a_run_whose_processes_all_vanished_is_lost(make_run: MakeRun) -> None:
    run = make_run(SLEEP)
    launch.launch(run)
    status = run.status()
    assert status.supervisor and status.driver
    os.kill(status.supervisor.pid, signal.SIGKILL)
    os.kill(status.driver.pid, signal.SIGKILL)
    wait_for(lambda: run.status().state == "lost")
    assert (run.status().error or {})["code"] == "Lost"
    assert launch.stop(run, "nothing to do").state == "lost"


def test_a_driver_that_ends_after_its_supervisor_has_the_last_word(make_run: MakeRun) -> None:
    driver = """
    import sys, time
    from oxrl_core.runs.rundir import RunDir
    run = RunDir(sys.argv[1])
    print("ready", flush=True)
    time.sleep(1.5)
    LAST_WORD
    """
    words = {
        "run.write_progress('finished', 3, 3)": "finished",
        "run.write_error({'code': 'DataError', 'what': 'empty'})": "failed",
    }
    for word, state in words.items():
        run = make_run(textwrap.dedent(driver).replace("LAST_WORD", word))
        spec = run.spec()
        write_json(run.path / "spec.json", {**spec, "command": [*spec["command"], str(run.path)]})
        launch.launch(run)
        wait_for(lambda run=run: run.read_logs().lines)
        supervisor = run.status().supervisor
        assert supervisor
        os.kill(supervisor.pid, signal.SIGKILL)
        wait_for(lambda run=run: run.status().state == "orphaned")
        assert wait_until_ended(run).state == state


def test_a_driver_started_by_hand_is_watched_and_stopped_without_a_supervisor(make_run: MakeRun) -> None:
    driver = """
    import sys, time
    from oxrl_core.runs.rundir import RunDir
    RunDir(sys.argv[1]).write_progress("training", 1, 3)
    time.sleep(600)
    """
    run = make_run(textwrap.dedent(driver))
    by_hand = subprocess.Popen([*run.spec()["command"], str(run.path)])
    burial = threading.Thread(target=by_hand.wait)
    burial.start()
    wait_for(lambda: run.status().state == "running")
    assert launch.stop(run, "enough").state == "stopped"
    burial.join(10)
    assert by_hand.returncode == -signal.SIGTERM


# What a rank of torchrun does to its run: it writes its progress and its last word, and nobody supervises it.
BY_HAND = """
import os, sys
from oxrl_core.runs.rundir import RunDir
run = RunDir(sys.argv[1])
"""


@pytest.mark.parametrize(
    ("words", "state"),
    [
        ("run.write_progress('training', 2, 3); run.write_progress('finished', 3, 3)", "finished"),
        ("run.write_progress('training', 2, 3); run.write_error({'code': 'DataError', 'what': 'empty'})", "failed"),
        ("run.write_error({'code': 'DataError', 'what': 'empty'})", "failed"),  # before it could begin
        ("run.write_progress('training', 2, 3); run.write_progress('stopped', 2, 3)", "stopped"),
        ("run.write_progress('training', 2, 3); os._exit(9)", "lost"),
    ],
)
def test_a_run_started_by_hand_ends_as_its_own_last_word_says(make_run: MakeRun, words: str, state: str) -> None:
    run = make_run(BY_HAND + words, created_at=time.time() - 3600)
    subprocess.run([*run.spec()["command"], str(run.path)], timeout=60, check=False)
    status = run.status()
    assert (status.state, status.started_at is not None, status.ended_at is not None) == (state, True, True)
    assert (status.error or {}).get("code", "") == {"failed": "DataError", "lost": "Lost"}.get(state, "")
    assert [view.state for view in api.list_runs(home=run.home).runs] == [state]
    assert api.get_run(run.run_id, home=run.home).state == state


def test_a_process_that_stops_its_own_run_survives_and_so_do_its_children(make_run: MakeRun) -> None:
    """As a notebook does that writes progress itself, or a supervisor in a test."""
    code = """
import os, subprocess, sys
from oxrl_core.runs import launch, process
from oxrl_core.runs.records import write_json
from oxrl_core.runs.rundir import RunDir

child = subprocess.Popen(["sleep", "600"])
try:
    driven, supervised = RunDir(sys.argv[1]), RunDir(sys.argv[2])
    driven.write_progress("training", 1, 3)
    me = process.identify(os.getpid()).as_dict()
    write_json(supervised.path / "status.json", {"state": "running", "supervisor": me})
    states = [launch.stop(run, "enough").state for run in (driven, supervised)]
    print(*states, child.poll())
finally:
    child.kill()
"""
    runs = [str(make_run().path) for _ in range(2)]
    done = subprocess.run([sys.executable, "-c", code, *runs], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "stopped stopped None\n"), done.stderr


def test_a_deaf_supervisor_is_replaced_by_who_stops(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TERM_SECONDS", "KILL_SECONDS", "_ANSWER_SECONDS"):  # together: how long it is waited for
        monkeypatch.setattr(launch, name, 0.5)
    run = make_run(SLEEP)
    launch.launch(run)
    status = run.status()
    assert status.supervisor and status.driver
    os.kill(status.supervisor.pid, signal.SIGSTOP)
    assert launch.stop(run, "enough", grace=0.0).state == "stopped"
    assert not process.is_alive(status.supervisor) and not process.is_alive(status.driver)
