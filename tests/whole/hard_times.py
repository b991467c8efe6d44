"""A run that moves to another machine, one whose disk fills up, and one that nothing happens to: JSON at the end."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
from pathlib import Path

from in_process import AfterReports

from oxrl_core.config.load import load_config
from oxrl_core.driver import STOPPED, drive
from oxrl_core.engine.checkpoint import CheckpointStore, hash_file
from oxrl_core.errors import MachineError
from oxrl_core.runs.records import write_json
from oxrl_core.runs.rundir import RunDir

SETTINGS = ["run.backend=local", "train.steps=4", "train.save_every=1", "train.rows_per_step=4", "report.sinks=[]"]
FOREIGN = {"pid": 4242, "start": 1, "boot": "00000000-0000-0000-0000-000000000000", "host": "another-machine"}


def new(home: Path) -> RunDir:
    """A small supervised run."""
    return RunDir.create(home, load_config("sft", SETTINGS), kind="sl")


def end_of(run: RunDir) -> dict[str, object]:
    """What the run made, once it is gone through to its end."""
    assert drive(run, run.config(), AfterReports(None)) == 0
    steps = [row["step"] for row in run.metrics()]
    return {"weights": hash_file(run.path / "final" / "model.safetensors"), "steps": steps}


def moved(home: Path) -> dict[str, object]:
    """A run that stopped here and goes on at another place, where its supervisor was never alive."""
    run = new(home / "here")
    assert drive(run, run.config(), AfterReports(2)) == STOPPED
    there = home / "another" / "disk" / "runs" / run.run_id
    shutil.copytree(run.path, there)
    shutil.rmtree(home / "here")
    record = {"state": "running", "supervisor": FOREIGN, "driver": FOREIGN, "started_at": 0.0, "heartbeat_at": 0.0}
    write_json(there / "status.json", record)
    return end_of(RunDir(there))


def filled(home: Path) -> dict[str, object]:
    """A run that the disk gives no more room, and that goes on when it does."""
    run = new(home)
    assert drive(run, run.config(), AfterReports(1)) == STOPPED
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # metrics fit, weights do not
    try:
        drive(run, run.config(), AfterReports(None))
        error = ""
    except MachineError as refused:
        error = f"{refused.what} -> {refused.next_step}"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    store = CheckpointStore(run.checkpoints, 2)
    newest = store.newest()
    left = sorted(path.name for path in run.checkpoints.iterdir())
    return {"error": error, "newest": newest[0].name if newest else "", "left": left} | end_of(run)


if __name__ == "__main__":
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the runs print belongs to the log
    home = Path(sys.argv[1])
    answer = {"undisturbed": end_of(new(home)), "moved": moved(home), "filled": filled(home)}
    print(json.dumps(answer), file=out, flush=True)
