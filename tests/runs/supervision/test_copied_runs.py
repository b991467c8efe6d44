"""A run directory that was copied from another machine: its pids are strangers' here, its last word counts."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from run_trees import SLEEP, MakeRun, wait_until_ended, with_arguments

from oxrl_core.errors import MachineError
from oxrl_core.runs import launch, process
from oxrl_core.runs.records import write_json
from oxrl_core.runs.rundir import RunDir
from oxrl_core.runs.supervision.resume import resume

COUNTS = """
import sys
from oxrl_core.runs.rundir import RunDir
run = RunDir(sys.argv[1])
with (run.path / "starts").open("a") as file:
    file.write("x")
run.write_progress("finished", 3, 3)
"""


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(["sleep", "600"])
    yield child
    assert child.poll() is None, "a process of somebody else was ended"
    child.kill()
    child.wait(20)


def copied(
    run: RunDir, home: Path, stranger: subprocess.Popen[bytes], host: str = "another", **record: object
) -> RunDir:
    """The run as it arrives in another home; the identities in it were those of another machine or boot."""
    there = RunDir(home / "runs" / run.run_id)
    shutil.copytree(run.path, there.path)
    identity = process.identify(stranger.pid)
    assert identity
    # The very pid and start time of a process that lives here: only host and boot tell it apart.
    elsewhere = {**identity.as_dict(), "host": host, "boot": "00000000-0000-0000-0000-000000000000"}
    old = json.loads((there.path / "status.json").read_text())
    pids = [[identity.pid, identity.start]]
    write_json(
        there.path / "status.json", {**old, "supervisor": elsewhere, "driver": elsewhere, "processes": pids, **record}
    )
    progress = there.path / "progress.json"
    if progress.exists():
        write_json(progress, {**json.loads(progress.read_text()), "process": elsewhere})
    return there


def test_one_that_had_ended_is_seen_as_it_ended_and_goes_on_here(
    make_run: MakeRun, tmp_path: Path, stranger: subprocess.Popen[bytes]
) -> None:
    run = with_arguments(make_run(COUNTS, cwd=str(tmp_path / "no such folder here"), resumable=True))
    launch.launch(run)
    wait_until_ended(run)
    there = copied(run, tmp_path / "there", stranger, state="stopped", stop_reason="enough")
    assert (there.status().state, there.status().stop_reason) == ("stopped", "enough")
    assert launch.stop(there, "again").state == "stopped"
    spec = json.loads((there.path / "spec.json").read_text())
    spec["command"][-1] = str(there.path)
    write_json(there.path / "spec.json", spec)
    assert resume(there)[1]
    assert wait_until_ended(there).state == "finished"
    assert (there.path / "starts").read_text() == "xx"


def test_one_that_seemed_to_run_is_left_to_its_machine_and_the_way_to_go_on_here_is_named(
    make_run: MakeRun, tmp_path: Path, stranger: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(SLEEP)
    launch.launch(run)
    launch.stop(run, "so that nothing here bears its id")
    there = copied(run, tmp_path / "there", stranger, state="running", ended_at=None, heartbeat_at=0.0)
    assert there.status().state == "lost"
    with pytest.raises(MachineError, match="belongs to another") as caught:
        resume(there)
    assert "oxrl fork" in caught.value.next_step
    (there.path / "stop.json").unlink()  # of the stop before the copy
    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", lambda seconds: pytest.fail(f"it waits {seconds} s for nobody"))
        with pytest.raises(MachineError, match=r"supervised on another, of which nothing has been heard") as refused:
            launch.stop(there, "from here")
    assert refused.value.where == run.run_id
    assert "stop it there" in refused.value.next_step
    assert "oxrl fork" in refused.value.next_step
    assert not (there.path / "stop.json").exists()  # whoever goes on with the copy would be stopped by it


def test_one_of_this_machine_before_it_was_started_anew_goes_on_by_itself(
    make_run: MakeRun, tmp_path: Path, stranger: subprocess.Popen[bytes]
) -> None:
    """The same host, another boot: whatever has those pids now is not the run's."""
    run = with_arguments(make_run(COUNTS, resumable=True))
    launch.launch(run)
    wait_until_ended(run)
    (run.path / "progress.json").unlink()
    own = process.identify(stranger.pid)
    assert own
    there = copied(run, tmp_path / "there", stranger, host=own.host, state="running", ended_at=None)
    assert there.status().state == "lost"
    spec = json.loads((there.path / "spec.json").read_text())
    spec["command"][-1] = str(there.path)
    write_json(there.path / "spec.json", spec)
    launch.adopt(there)
    assert wait_until_ended(there).state == "finished"
