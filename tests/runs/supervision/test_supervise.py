"""Supervision against real processes: detached start, every way to end, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from run_trees import (
    NASTY_TREE,
    SLEEP,
    MakeRun,
    alive_of,
    end,
    exists,
    nasty_pids,
    open_files,
    start_decoys,
    stop_twice,
    wait_for,
    wait_until_ended,
)

from oxrl_core.errors import MachineError
from oxrl_core.runs import launch, process
from oxrl_core.runs.records import write_json
from oxrl_core.runs.rundir import RunDir


def test_a_driver_that_ends_with_code_0_is_a_finished_run(make_run: MakeRun) -> None:
    run = make_run("print('it ran')")
    launch.launch(run)
    status = wait_until_ended(run)
    assert (status.state, status.exit_code, status.error) == ("finished", 0, None)
    assert run.read_logs().lines == ["it ran"]
    assert [event["code"] for event in run.events()] == ["created", "finished"]


def test_launch_returns_quickly_and_a_second_call_starts_nothing(make_run: MakeRun) -> None:
    run = make_run(SLEEP)
    began = time.monotonic()
    launch.launch(run)
    assert time.monotonic() - began < 5  # 0.2 s on a quiet machine
    driver = run.status().driver
    launch.launch(run)
    assert run.status().driver == driver
    assert driver and alive_of(run) == [driver.pid]


def test_the_supervisor_holds_nothing_of_its_launcher(make_run: MakeRun) -> None:
    run = make_run(SLEEP)
    launch.launch(run)
    status = run.status()
    assert status.supervisor and status.driver
    sessions = {pid: os.getsid(pid) for pid in (os.getpid(), status.supervisor.pid, status.driver.pid)}
    assert len(set(sessions.values())) == 3
    wait_for(lambda: run.read_logs().lines)  # the driver's interpreter has read its own files
    driver_files = {"/dev/null", str(run.logs / "driver.log")}
    assert open_files(status.driver.pid) == driver_files
    supervisor_files = {"/dev/null", str(run.logs / "supervisor.log"), str(run.path / ".lock")}
    wait_for(lambda: open_files(status.supervisor.pid) == supervisor_files)  # but for the moment of a heartbeat


def test_the_run_id_is_the_last_variable_and_foreign_tokens_are_not_passed(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "secret")
    monkeypatch.setenv("OXRL_GITHUB_TOKEN", "secret")
    monkeypatch.setenv("HF_TOKEN", "needed for gated models")
    monkeypatch.setenv("OXRL_PASS_ENV", "MY_VARIABLE")
    monkeypatch.setenv("MY_VARIABLE", "1")
    monkeypatch.setenv("OXRL_RUN_ID", "of-another-run")
    run = make_run(SLEEP)
    launch.launch(run)
    driver = run.status().driver
    assert driver
    wait_for(lambda: run.read_logs().lines)
    variables = Path(f"/proc/{driver.pid}/environ").read_bytes().decode().rstrip("\0").split("\0")
    names = [variable.split("=", 1)[0] for variable in variables]
    assert variables[-1] == f"OXRL_RUN_ID={run.run_id}"
    assert names.count("OXRL_RUN_ID") == 1
    assert {"HF_TOKEN", "MY_VARIABLE", "PATH"} <= set(names)
    assert not {"GITHUB_TOKEN", "OXRL_GITHUB_TOKEN"} & set(names)


@pytest.mark.parametrize(
    ("driver", "code", "words", "exit_code"),
    [
        ("raise ValueError('no such column')", "Exited", "ValueError: no such column", 1),
        ("import os; os.kill(os.getpid(), 9)", "Killed", "out of memory?", -9),
        ("import os; os.kill(os.getpid(), 11)", "Crashed", "SIGSEGV", -11),
        ("import sys; sys.exit(134)", "Crashed", "SIGABRT", 134),
        ("import sys; sys.exit(7)", "Exited", "code 7; it said nothing", 7),
    ],
)
def test_a_failure_is_told_by_exit_code_or_signal_and_the_last_words(
    make_run: MakeRun, driver: str, code: str, words: str, exit_code: int
) -> None:
    run = make_run(driver)
    launch.launch(run)
    status = wait_until_ended(run)
    assert status.state == "failed" and status.exit_code == exit_code
    assert status.error and status.error["code"] == code and words in status.error["what"]
    assert status.error["next"]
    assert [event["code"] for event in run.events(alerts_only=True)] == ["failed"]


def test_the_error_that_the_driver_left_is_the_error_of_the_run(make_run: MakeRun) -> None:
    driver = """
    import json, sys
    error = {"code": "DataError", "what": "empty", "where": "a.jsonl", "next": "add rows"}
    json.dump(error, open(sys.argv[1], "w"))
    print("half a line", end="")
    sys.exit(2)
    """
    run = make_run(textwrap.dedent(driver))
    spec = run.spec()
    write_json(run.path / "spec.json", {**spec, "command": [*spec["command"], str(run.path / "error.json")]})
    launch.launch(run)
    status = wait_until_ended(run)
    assert status.state == "failed" and status.exit_code == 2
    assert status.error == {"code": "DataError", "what": "empty", "where": "a.jsonl", "next": "add rows"}
    assert status.log_tail == ["half a line"]


def test_stop_leaves_no_process_of_a_nasty_tree_and_touches_no_foreign_one(make_run: MakeRun) -> None:
    decoy = os.posix_spawn(sys.executable, [sys.executable, "-c", SLEEP, "oxrl_core.driver"], dict(os.environ))
    sleeper = os.posix_spawnp("sleep", ["sleep", "600"], dict(os.environ))  # the name of one of the tree's processes
    try:
        run = make_run(NASTY_TREE)
        launch.launch(run)
        pids = nasty_pids(run)
        assert len(pids) == 3 and all(exists(pid) for pid in pids)
        began = time.monotonic()
        status = launch.stop(run, "enough")
        seconds = time.monotonic() - began
        assert [pid for pid in pids if exists(pid)] == []
        assert status.supervisor and not process.is_alive(status.supervisor)
        assert seconds < 10  # 1 s grace, 2 s for SIGTERM; a second for scans
        assert (status.state, status.stop_reason, status.leftovers) == ("stopped", "enough", [])
        assert "killed" in [event["code"] for event in run.events()]
        assert exists(decoy) and exists(sleeper)
    finally:
        end(decoy)
        end(sleeper)


def test_ten_runs_that_are_stopped_at_once_leave_nothing_and_every_decoy_lives(make_run: MakeRun) -> None:
    decoys = start_decoys()
    try:
        runs = [make_run(NASTY_TREE, name=f"run{number}") for number in range(10)]
        survivor = make_run(SLEEP, name="survivor")
        for run in [*runs, survivor]:
            launch.launch(run)
        pids = [pid for run in runs for pid in nasty_pids(run)]
        seconds: list[float] = []

        def stop(run: RunDir) -> None:
            began = time.monotonic()
            launch.stop(run, "enough")
            seconds.append(time.monotonic() - began)

        threads = [threading.Thread(target=stop, args=(run,)) for run in runs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(pids) == 30 and [pid for pid in pids if exists(pid)] == []
        assert len(seconds) == 10 and max(seconds) < 15
        assert [decoy.poll() for decoy in decoys] == [None] * len(decoys)
        assert not survivor.status().has_ended
    finally:
        for decoy in decoys:
            decoy.kill()
            decoy.wait()


def test_a_driver_that_heeds_sigterm_has_its_grace_to_save(make_run: MakeRun) -> None:
    driver = """
    import signal, sys, time
    def leave(*_):
        time.sleep(0.5)
        print("saved", flush=True)
        sys.exit(143)
    signal.signal(signal.SIGTERM, leave)
    print("ready", flush=True)
    while True:
        time.sleep(0.1)
    """
    run = make_run(textwrap.dedent(driver), grace=30.0)
    launch.launch(run)
    wait_for(lambda: run.read_logs().lines == ["ready"])
    began = time.monotonic()
    status = launch.stop(run, "enough")
    assert time.monotonic() - began < 10  # it does not wait for the grace to pass
    assert (status.state, status.exit_code) == ("stopped", 143)
    assert run.read_logs().lines == ["ready", "saved"]
    assert launch.stop(run, "again").stop_reason == "enough"


def test_two_stops_at_once_end_alike(make_run: MakeRun) -> None:
    run = make_run(NASTY_TREE)
    launch.launch(run)
    pids = nasty_pids(run)
    assert stop_twice(run) == ["stopped", "stopped"]
    assert [pid for pid in pids if exists(pid)] == []


def test_a_forced_stop_shortens_the_grace_of_an_earlier_one(make_run: MakeRun) -> None:
    run = make_run(NASTY_TREE, grace=120.0)
    launch.launch(run)
    pids = nasty_pids(run)
    patient = threading.Thread(target=launch.stop, args=(run, "slowly"))
    patient.start()
    wait_for(lambda: run.status().state == "stopping")
    began = time.monotonic()
    assert launch.stop(run, "now", grace=0.0).state == "stopped"
    assert time.monotonic() - began < 10
    patient.join(10)
    assert not patient.is_alive() and [pid for pid in pids if exists(pid)] == []


def test_what_a_finished_driver_leaves_behind_is_ended(make_run: MakeRun) -> None:
    run = make_run(NASTY_TREE.removesuffix("time.sleep(600)\n"))
    launch.launch(run)
    pids = nasty_pids(run)
    status = wait_until_ended(run)
    assert status.state == "finished"
    assert [pid for pid in pids if exists(pid)] == []


def test_a_run_goes_on_when_its_launcher_is_killed_at_once(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("import time; time.sleep(1); print('done')")
    code = (
        "import sys, os; from oxrl_core.runs import launch; from oxrl_core.runs.rundir import RunDir\n"
        "launch.launch(RunDir(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    # The pipes would keep this call waiting if the run held one of them.
    launcher = subprocess.run([sys.executable, "-c", code, str(run.path)], capture_output=True, timeout=60)
    assert launcher.returncode == -signal.SIGKILL
    assert wait_until_ended(run).state == "finished"
    assert run.read_logs().lines == ["done"]


def test_killing_the_launcher_at_any_moment_never_leaves_half_a_run(make_run: MakeRun) -> None:
    """Either the launch had begun and the run finishes, or it had not and a second launch does it."""
    code = (
        "import sys; from oxrl_core.runs import launch; from oxrl_core.runs.rundir import RunDir\n"
        "print('go', flush=True); launch.launch(RunDir(sys.argv[1]))"
    )
    for delay in (0.0, 0.03, 0.06, 0.1, 0.2):
        run = make_run("print('done')")
        launcher = subprocess.Popen([sys.executable, "-c", code, str(run.path)], stdout=subprocess.PIPE)
        assert launcher.stdout and launcher.stdout.readline()
        time.sleep(delay)
        launcher.kill()
        launcher.communicate(timeout=60)
        launch.launch(run)
        assert wait_until_ended(run).state == "finished", delay
        assert run.read_logs().lines == ["done"], delay


def test_a_spent_budget_stops_the_run_with_an_alert(make_run: MakeRun) -> None:
    run = make_run(SLEEP, max_hours=1 / 3600)
    launch.launch(run)
    status = wait_until_ended(run)
    assert status.state == "stopped" and "max_hours" in status.stop_reason
    assert "stopping" in [event["code"] for event in run.events(alerts_only=True)]


def test_a_sigterm_from_outside_is_told_as_such(make_run: MakeRun) -> None:
    run = make_run(SLEEP)
    launch.launch(run)
    driver = run.status().driver
    assert driver
    os.kill(driver.pid, signal.SIGTERM)
    status = wait_until_ended(run)
    assert status.state == "stopped" and "outside" in status.stop_reason


def test_a_run_stopped_before_its_launch_never_starts(make_run: MakeRun) -> None:
    run = make_run("print('it ran')")
    assert launch.stop(run, "changed my mind").state == "stopped"
    launch.launch(run)
    assert run.status().state == "stopped"
    assert run.read_logs().lines == []


def test_a_missing_python_is_told_to_the_caller_and_in_the_status(make_run: MakeRun) -> None:
    run = make_run()
    with pytest.raises(MachineError, match="No such file"):
        launch.launch(run, python="/no/such/python")
    status = run.status()
    assert status.state == "failed" and status.error and status.error["code"] == "MachineError"


def test_a_missing_driver_program_is_told_to_the_caller_and_in_the_status(make_run: MakeRun) -> None:
    run = make_run(command=["/no/such/driver"])
    with pytest.raises(MachineError, match="driver cannot be started"):
        launch.launch(run)
    status = run.status()
    assert status.state == "failed" and status.error and status.error["where"] == "/no/such/driver"


RAY = """
import ray, subprocess, time
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)

@ray.remote(num_cpus=0)
class Worker:
    def start_child(self):
        return subprocess.Popen(["sleep", "600"], start_new_session=True).pid

workers = [Worker.remote(), Worker.options(lifetime="detached", name="detached").remote()]
print("children", *ray.get([worker.start_child.remote() for worker in workers]), flush=True)
time.sleep(600)
"""


@pytest.mark.engine
def test_nothing_of_a_ray_cluster_outlives_its_run(make_run: MakeRun) -> None:
    run = make_run(RAY)
    launch.launch(run)
    wait_for(lambda: run.read_logs(grep="children").lines or run.status().has_ended, 120)
    lines = run.read_logs(grep="children").lines
    assert lines, run.read_logs().lines
    children = [int(word) for word in lines[-1].split()[1:]]
    began = time.monotonic()
    assert len(alive_of(run)) > 5  # the cluster, its workers, their children
    status = launch.stop(run, "enough")
    assert time.monotonic() - began < 15
    assert (status.state, status.leftovers) == ("stopped", [])
    assert alive_of(run) == [] and [pid for pid in children if exists(pid)] == []


def test_a_reused_pid_is_neither_alive_nor_signalled() -> None:
    me = process.identify(os.getpid())
    assert me and process.is_alive(me)
    former = process.ProcessIdentity(me.pid, me.start - 1, me.boot, me.host)
    of_another_boot = process.ProcessIdentity(me.pid, me.start, "another boot", me.host)
    for stranger in (former, of_another_boot):
        assert not process.is_alive(stranger)
        assert not process.send_signal(stranger, signal.SIGKILL)  # this test would not live to see it fail
    assert not process.is_alive(None)
