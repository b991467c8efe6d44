"""Drivers that die and are started again, budgets that hold over it, and runs that get another supervisor."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from run_trees import (
    NASTY_TREE,
    SLEEP,
    MakeRun,
    alive_of,
    exists,
    nasty_pids,
    wait_for,
    wait_until_ended,
    with_arguments,
)

from oxrl_core import api
from oxrl_core.errors import ConfigError, MachineError
from oxrl_core.runs import launch, process
from oxrl_core.runs.records import write_json

# Counts its lives; each ends as the next word says.
LIVES = """
import json, os, pathlib, sys, time
from oxrl_core.runs.rundir import RunDir
run = RunDir(sys.argv[1])
lives = run.path / "lives"
number = len(lives.read_text()) if lives.exists() else 0
lives.write_text("x" * (number + 1))
ends, step = sys.argv[2 + number].split("@")
run.write_progress("training", int(step), 9)
if ends == "finish":
    run.write_progress("finished", int(step), 9)
elif ends.isdigit():
    os.kill(os.getpid(), int(ends))
else:
    run.write_error({"code": ends, "what": "as it was told", "where": "here", "next": "nothing"})
    sys.exit(2 if ends == "ConfigError" else 1)
"""


@pytest.mark.parametrize(
    ("lives", "state", "restarts", "because"),
    [
        (["9@1", "11@4", "finish@9"], "finished", 2, ""),
        (["WorkerDied@1", "finish@9"], "finished", 1, ""),
        (["9@3", "9@3"], "failed", 1, "same failure"),  # it got no further
        (["9@1", "9@2", "9@3"], "failed", 2, "max_restarts"),
        (["ConfigError@1"], "failed", 0, "would come again"),
        (["NumericsError@5"], "failed", 0, "would come again"),  # a failed check: the same numbers come again
        (["DeadlineError@5"], "failed", 0, "would come again"),  # without run.on_stall: restart
        (["9@1", "ConfigError@1"], "failed", 1, "would come again"),
    ],
)
def test_what_may_go_right_the_next_time_is_tried_again(
    make_run: MakeRun, lives: list[str], state: str, restarts: int, because: str
) -> None:
    run = with_arguments(make_run(LIVES, max_restarts=2), *lives)
    launch.launch(run)
    status = wait_until_ended(run, 40)
    assert (status.state, status.restarts) == (state, restarts)
    events = run.events()
    again = [event for event in events if event["code"] == "restarting"]
    assert [event["restart"] for event in again] == list(range(1, restarts + 1))
    assert all(event["level"] == "warning" and event["cause"] for event in again)
    if state == "failed":
        assert because in events[-1]["final_because"]
    assert len((run.path / "lives").read_text()) == restarts + 1


def test_between_two_lives_the_run_says_so_and_can_be_stopped(make_run: MakeRun) -> None:
    run = with_arguments(make_run(LIVES, max_restarts=9), "9@1", "9@2", "9@3", "9@4", "9@5")
    launch.launch(run)
    wait_for(lambda: run.status().restarts >= 3, 40)  # 4 s to wait now
    status = run.status()
    assert (status.state, status.phase) == ("starting", "restarting")
    assert launch.stop(run, "enough").state == "stopped"


def test_hours_are_counted_over_all_lives(make_run: MakeRun) -> None:
    run = with_arguments(make_run(LIVES, max_restarts=9, max_hours=2.5 / 3600), "9@1", "9@2", "9@3", "9@4", "9@5")
    launch.launch(run)
    status = wait_until_ended(run, 40)
    assert status.state == "stopped" and "max_hours" in status.stop_reason and status.restarts >= 1
    assert 2.5 <= (status.elapsed_seconds or 0) < 10


def test_gpu_hours_are_gpus_times_hours_as_the_driver_says(make_run: MakeRun) -> None:
    driver = """
    import sys, time
    from oxrl_core.runs.rundir import RunDir
    run = RunDir(sys.argv[1])
    run.num_gpus = 8.0
    run.write_progress("training", 1, 9)
    time.sleep(600)
    """
    run = with_arguments(make_run(textwrap.dedent(driver), max_gpu_hours=12 / 3600))
    launch.launch(run)
    status = wait_until_ended(run, 30)
    assert status.state == "stopped" and "GPU-hours" in status.stop_reason
    spent = json.loads((run.path / "status.json").read_text())["spent"]
    assert 12 <= spent["gpu_seconds"] < 60 and spent["gpu_seconds"] <= 8 * spent["seconds"] + 0.1


def test_a_driver_that_leaves_of_itself_says_why(make_run: MakeRun) -> None:
    driver = """
    import sys
    from oxrl_core.runs.rundir import RunDir
    run = RunDir(sys.argv[1])
    run.stop_reason = "its budget of 100 trained tokens (run.max_tokens) is spent"
    run.write_progress("stopped", 4, 9)
    sys.exit(143)
    """
    run = with_arguments(make_run(textwrap.dedent(driver), max_restarts=2))
    launch.launch(run)
    status = wait_until_ended(run)
    assert (status.state, status.restarts) == ("stopped", 0) and "max_tokens" in status.stop_reason


def kill_supervisor(run: object) -> process.ProcessIdentity:
    supervisor = run.status().supervisor  # type: ignore[attr-defined]
    os.kill(supervisor.pid, signal.SIGKILL)
    wait_for(lambda: not process.is_alive(supervisor))
    return supervisor


def test_an_orphan_is_adopted_and_watched_to_its_end(make_run: MakeRun) -> None:
    driver = """
    import sys, time
    from oxrl_core.runs.rundir import RunDir
    run = RunDir(sys.argv[1])
    run.write_progress("training", 1, 2)
    while not (run.path / "go").exists():
        time.sleep(0.05)
    run.write_progress("finished", 2, 2)
    """
    run = with_arguments(make_run(textwrap.dedent(driver)))
    launch.launch(run)
    wait_for(lambda: run.status().state == "running")
    former, driver_before = kill_supervisor(run), run.status().driver
    assert api.get_run(run.run_id, home=run.home).state == "orphaned"
    view = api.adopt_run(run.run_id, home=run.home)
    assert view.state == "running"
    status = run.status()
    assert status.driver == driver_before and status.supervisor != former
    with pytest.raises(ConfigError, match="the run is running"):
        api.adopt_run(run.run_id, home=run.home)
    (run.path / "go").touch()
    assert wait_until_ended(run).state == "finished"


def test_an_adopted_run_is_stopped_with_all_its_processes(make_run: MakeRun) -> None:
    run = make_run(NASTY_TREE)
    launch.launch(run)
    pids = nasty_pids(run)
    wait_for(lambda: set(pids) <= {pid for pid, _ in json.loads((run.path / "status.json").read_text())["processes"]})
    kill_supervisor(run)
    assert api.adopt_orphans(home=run.home) == [run.run_id]
    assert api.adopt_orphans(home=run.home) == []
    assert launch.stop(run, "enough").state == "stopped"
    assert [pid for pid in pids if exists(pid)] == []


def test_an_adopted_driver_that_is_killed_is_started_again(make_run: MakeRun) -> None:
    run = make_run(SLEEP, max_restarts=2)
    launch.launch(run)
    kill_supervisor(run)
    launch.adopt(run)
    before = run.status().driver
    assert before
    os.kill(before.pid, signal.SIGKILL)
    wait_for(lambda: run.status().restarts == 1 and run.status().driver)
    assert run.status().driver != before


def test_a_lost_run_goes_on_when_it_is_adopted(make_run: MakeRun) -> None:
    run = with_arguments(make_run(LIVES.replace("ends, step", "time.sleep(1)\nends, step")), "finish@1", "finish@9")
    launch.launch(run)
    wait_for((run.path / "lives").exists)
    kill_supervisor(run)
    driver = run.status().driver
    assert driver
    os.kill(driver.pid, signal.SIGKILL)
    wait_for(lambda: run.status().state == "lost")
    assert api.adopt_orphans(home=run.home) == []  # only a person says whether it shall begin again
    launch.adopt(run)
    status = wait_until_ended(run)
    assert (status.state, status.step) == ("finished", 9)


def test_of_many_who_adopt_at_once_exactly_one_supervises(make_run: MakeRun) -> None:
    run = make_run(SLEEP)
    launch.launch(run)
    driver = run.status().driver
    kill_supervisor(run)
    code = (
        "import sys; from oxrl_core.runs import launch; from oxrl_core.runs.rundir import RunDir\n"
        "sys.stdin.read(1); launch.start_supervisor(RunDir(sys.argv[1]), sys.executable, '--adopt')"
    )
    racers = [
        subprocess.Popen([sys.executable, "-c", code, str(run.path)], stdin=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for racer in racers:
        assert racer.stdin
        racer.stdin.write("x")
        racer.stdin.close()
    assert [racer.wait(60) for racer in racers] == [0, 0, 0, 0]
    assert [event["code"] for event in run.events()].count("adopted") == 1
    assert run.status().driver == driver and len(alive_of(run)) == 1


def test_the_pid_of_a_dead_driver_that_another_process_has_now_is_not_adopted(make_run: MakeRun) -> None:
    """The stranger lives on and is nobody's driver: the run is lost."""
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        run = make_run(SLEEP)
        identity = process.identify(stranger.pid)
        assert identity
        stale = {**identity.as_dict(), "start": identity.start - 7}
        record = {"state": "running", "started_at": time.time(), "supervisor": stale, "driver": stale}
        write_json(run.path / "status.json", record)
        assert run.status().state == "lost"
        assert launch.stop(run, "tidy").state == "lost"
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_run_of_another_machine_is_neither_adopted_nor_started_again(make_run: MakeRun) -> None:
    run = make_run(SLEEP)
    me = process.identify(os.getpid())
    assert me
    elsewhere = {**me.as_dict(), "host": "another", "boot": "another"}
    write_json(run.path / "status.json", {"state": "running", "supervisor": elsewhere, "driver": elsewhere})
    assert run.status().state == "lost"
    with pytest.raises(MachineError, match="belongs to another"):
        launch.adopt(run)
    (run.path / "status.json").unlink()


def test_a_torn_status_is_written_anew_by_its_supervisor(make_run: MakeRun) -> None:
    run = make_run(SLEEP)
    launch.launch(run)
    (run.path / "status.json").write_text('{"state": "runn')
    wait_for(lambda: run.status().supervisor is not None)
    assert run.status().state in ("starting", "running")
