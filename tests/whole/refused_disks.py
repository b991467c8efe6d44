"""Goes through runs on disks that fill up, are locked or fail, and goes on with them: `refused_disks.py HOME`.

This process must be allowed to mount: every disk is a small tmpfs. At the end there is one object of JSON: what each
run said, what was left of it, and what it made once the trouble was over.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

from in_process import AfterReports

from oxrl_core import api
from oxrl_core.config.load import load_config
from oxrl_core.driver import StopRequest, drive, main
from oxrl_core.engine.checkpoint import CheckpointStore, hash_file
from oxrl_core.errors import OxrlError
from oxrl_core.runs import launch
from oxrl_core.runs.records import write_json
from oxrl_core.runs.rundir import RunDir

COMMON = ["run.backend=local", "report.sinks=[]", "train.save_every=1", "train.steps=4", "train.eval_every=0"]
KINDS = {
    "sft": ["train.rows_per_step=4"],
    "background": ["train.rows_per_step=4", "train.async_save=true"],
    "sgrpo": ["rollout.engine=transformers", "train.prompts_per_step=2", "rollout.group_size=2"],
}
# Writes until it cannot, and then leaves as a driver does.
WRITER = """
import sys
from pathlib import Path
try:
    with (Path(sys.argv[1]) / "big").open("wb", buffering=0) as file:
        while file.write(b"0" * 4096):
            pass
except OSError as error:
    print(f"error: {error}\\n  next: free some space", file=sys.stderr, flush=True)
    sys.exit(2)
"""


class Disk:
    """A file system of its own at a folder."""

    def __init__(self, folder: Path, size: str = "64m") -> None:
        self.folder = folder
        mount("-t", "tmpfs", "-o", f"size={size}", "none", folder)

    def fill(self) -> None:
        """Not one more block is free from now on."""
        with (self.folder / "ballast").open("wb", buffering=0) as file:
            for block in (1 << 20, 4096):
                with suppress(OSError):
                    while file.write(b"0" * block):
                        pass

    def lock(self) -> None:
        """It is read-only from now on; what is written at this moment is waited for."""
        mount("--bind", self.folder, self.folder)
        deadline = time.monotonic() + 20
        while True:
            try:
                return mount("-o", "remount,bind,ro", self.folder)
            except subprocess.CalledProcessError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def mend(self) -> None:
        """Everything can be written again."""
        (self.folder / "ballast").unlink(missing_ok=True)

    def unlock(self) -> None:
        """The read-only view of it is gone."""
        subprocess.run(["umount", str(self.folder)], check=True)


def mount(*arguments: str | Path) -> None:
    """Mounts as the command of that name does."""
    subprocess.run(["mount", *map(str, arguments)], check=True, stderr=subprocess.PIPE, timeout=30)


class After(StopRequest):
    """Lets something happen after so many reports; the run is never asked to leave."""

    def __init__(self, reports: int, happens: Callable[[], None]) -> None:
        self.left = reports
        self.happens = happens
        super().__init__()

    def install(self) -> None:
        """The signals of this process are not the run's."""

    @property
    def asked(self) -> bool:
        self.left -= 1
        if self.left == 0:
            self.happens()
        return False

    @asked.setter
    def asked(self, value: bool) -> None:
        assert not value


def new(home: Path, kind: str) -> RunDir:
    """A small run."""
    recipe = "sft" if kind == "background" else kind
    return RunDir.create(home, load_config(recipe, [*COMMON, *KINDS[kind]]), kind="rl" if kind == "sgrpo" else "sl")


def end_of(run: RunDir) -> dict[str, Any]:
    """What the run made, once it has gone to its end."""
    assert drive(run, run.config(), AfterReports(None)) == 0
    rollouts = sorted(path.name for path in run.rollouts.glob("step-*"))
    steps = [row["step"] for row in run.metrics()]
    return {"weights": hash_file(run.path / "final" / "model.safetensors"), "steps": steps, "rollouts": rollouts}


def story(run: RunDir, error: OxrlError | dict[str, str]) -> dict[str, Any]:
    """What a run said that met trouble, what was left of it, and how it ends without the trouble."""
    newest = CheckpointStore(run.checkpoints, 9).newest()
    alerts = [f"{event['code']}: {event['message']}" for event in run.events(alerts_only=True)]
    said = {"error": error if isinstance(error, dict) else error.as_dict(), "alerts": alerts}
    return said | {"newest": newest[0].name if newest else "", "end": end_of(run)}


def on_the_way(home: Path, kind: str, place: str, trouble: str) -> dict[str, Any]:
    """A run that meets the trouble at a place of its folder after the report of its first step."""
    disk = Disk(home) if place == "." else None
    run = new(home, kind)
    disk = disk or Disk(run.path / place)
    refusal = mock.patch("os.fsync", side_effect=OSError(5, "Input/output error"))
    begins = {"full": disk.fill, "locked": disk.lock, "failing": refusal.start}
    ends = {"full": disk.mend, "locked": disk.unlock, "failing": refusal.stop}
    try:
        code = drive(run, run.config(), After(2, begins[trouble]))  # the first report is that of step 0
        raise AssertionError(f"it ended with {code}")
    except OxrlError as refused:
        error = refused
    ends[trouble]()
    return story(run, error)


def at_the_start(home: Path, trouble: str) -> dict[str, Any]:
    """A run on a disk on which nothing can be written any more when it starts again."""
    disk = Disk(home)
    run = new(home, "sft")
    assert drive(run, run.config(), AfterReports(1)) == 143
    disk.fill() if trouble == "full" else disk.lock()
    said = mock.Mock()
    with mock.patch("sys.stderr.write", said):
        code = main(["--run-dir", str(run.path)])
    text = "".join(call.args[0] for call in said.call_args_list)
    disk.mend() if trouble == "full" else disk.unlock()
    error = {"code": str(code), "said": text[text.rfind("error: ") :]}
    return story(run, error)


def refused(call: Callable[[], Any]) -> str:
    """What an operation answers: the name of what it returns, or its error with the next step."""
    try:
        return type(call()).__name__
    except OxrlError as error:
        return f"{type(error).__name__}: {error.what} -> {error.next_step}"


def looked_at(home: Path, trouble: str) -> dict[str, Any]:
    """What the operations answer about a finished and a stopped run of a home that cannot be written."""
    disk = Disk(home)
    finished, stopped = new(home, "sgrpo"), new(home, "sft")
    end_of(finished)
    assert drive(stopped, stopped.config(), AfterReports(1)) == 143
    (finished.logs / "driver.log").write_text("hello\n")
    for run, state in ((finished, "finished"), (stopped, "stopped")):
        (run.path / ".lock").touch()  # as the supervisor of a true run leaves them
        write_json(run.path / "status.json", {"state": state, "started_at": 1.0, "ended_at": 2.0})
    disk.fill() if trouble == "full" else disk.lock()
    one, other = finished.run_id, stopped.run_id
    calls: dict[str, Callable[[], Any]] = {
        "get": lambda: api.get_run(one, home=home),
        "list": lambda: api.list_runs(home=home),
        "logs": lambda: api.read_logs(one, home=home),
        "metrics": lambda: api.get_metrics(one, home=home),
        "rollouts": lambda: api.list_rollouts(one, home=home),
        "diagnose": lambda: api.diagnose_run(one, home=home),
        "compare": lambda: api.compare_runs([one, other], home=home),
        "watch": lambda: asyncio.run(api.watch_run(one, wait_seconds=0, home=home)),
        "rebuild": lambda: api.rebuild_index(home=home),
        "stop ended": lambda: api.stop_run(one, home=home),
        "report": lambda: api.write_report(one, home=home),
        "resume": lambda: api.resume_run(other, home=home),
        "launch by key": lambda: launch.open_run(home, load_config("demo"), "rl", "k"),
        "replay": lambda: api.replay_run(one, 2, home=home),
    }
    answers = {name: refused(call) for name, call in calls.items()}
    answers["listed"] = len(api.list_runs(home=home).runs)
    disk.mend() if trouble == "full" else disk.unlock()
    return answers


def supervised(home: Path) -> dict[str, Any]:
    """A run whose disk is full as its driver leaves, and that has room again a moment later."""
    disk = Disk(home, "4m")
    script = home.parent / "writer.py"
    script.write_text(WRITER)
    spec = {"kind": "sl", "command": [sys.executable, str(script), "{run_folder}"], "stop_grace_seconds": 1.0}
    run = RunDir.create_from_parts(home, "writer", "run: {}\n", spec)
    launch.launch(run)
    time.sleep(5)
    meanwhile = run.status().state
    (run.path / "big").unlink(missing_ok=True)
    deadline = time.monotonic() + 60
    while not run.status().has_ended and time.monotonic() < deadline:
        time.sleep(0.1)
    del disk
    status = run.status()
    return {"meanwhile": meanwhile, "state": status.state, "error": status.error}


if __name__ == "__main__":
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the runs print belongs to the log
    root = Path(sys.argv[1])

    def home(name: str) -> Path:
        (root / name).mkdir()
        return root / name

    answer: dict[str, Any] = {"undisturbed": {kind: end_of(new(home(kind), kind)) for kind in KINDS}}
    for kind, place, trouble in (
        ("sft", "checkpoints", "full"),
        ("sft", "checkpoints", "locked"),
        ("sft", "checkpoints", "failing"),
        ("sft", ".", "full"),
        ("background", "checkpoints", "full"),
        ("background", "checkpoints", "failing"),
        ("sgrpo", "rollouts", "full"),
        ("sgrpo", "rollouts", "locked"),
    ):
        answer[f"{kind} {place} {trouble}"] = on_the_way(home(f"{kind}{place}{trouble}"), kind, place, trouble)
    for trouble in ("full", "locked"):
        answer[f"start {trouble}"] = at_the_start(home(f"start-{trouble}"), trouble)
        answer[f"looked at {trouble}"] = looked_at(home(f"looked-{trouble}"), trouble)
    answer["supervised"] = supervised(home("supervised"))
    print(json.dumps(answer), file=out, flush=True)
