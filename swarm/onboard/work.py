"""Onboardings that somebody waits for: one model, a queue with workers, or a verification once more."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from oxrl_core.errors import NotFoundError, OxrlError
from oxrl_core.runs import launch
from oxrl_core.runs.records import read_json
from oxrl_core.runs.rundir import RunDir
from oxrl_core.runs.status import Status
from oxrl_core.runs.supervision import resume
from oxrl_core.runs.supervision.outcome import RESTARTABLE
from swarm.onboard import archive
from swarm.onboard.criteria import Verification
from swarm.onboard.order import onboard_model
from swarm.onboard.queue import Item, Queue, QueueView, Result

POLL_SECONDS = 0.5
MAX_RESUMES = 3


def wait_until_ended(run: RunDir, say: Callable[[Status], None] | None = None) -> Status:
    """The status of an onboarding that has ended or waits for a decision; one that was killed goes on."""
    resumes, last = 0, ("", "", 0)
    while True:
        status = run.status()
        if (status.state, status.phase, status.step) != last:
            last = (status.state, status.phase, status.step)
            if say is not None:
                say(status)
        was_killed = status.state == "failed" and (status.error or {}).get("code") in RESTARTABLE
        if (was_killed or status.state in ("lost", "orphaned")) and resumes < MAX_RESUMES:
            resumes += 1
            resume.resume(run)
        elif status.has_ended:
            return status
        time.sleep(POLL_SECONDS)


def onboard_item(home: Path, queue: str, item: Item, miniature_only: bool) -> Result:
    """An item done to its end. The key makes a second worker go on with the run of a first who died."""
    began = time.monotonic()
    try:
        key = f"queue/{queue}/{item.name}"
        view = onboard_model(item.model, item.task, miniature_only=miniature_only, key=key, home=home)
        run = RunDir(view.path)
        status = wait_until_ended(run)
    except OxrlError as error:
        return Result(model=item.model, state="refused", error=error.what)
    verification = verification_of(run)
    return Result(
        model=item.model,
        state=status.state,
        run_id=run.run_id,
        level=verification.level if verification is not None and status.state == "finished" else "",
        error=str((status.error or {}).get("what", "")),
        seconds=round(time.monotonic() - began, 1),
    )


def run_queue(home: Path, name: str, *, workers: int, miniature_only: bool) -> QueueView:
    """The queue when every item has a result. Workers are processes; the death of one costs nobody his item."""
    queue = Queue(home, name)
    if not queue.items():
        raise NotFoundError(f"the queue {name!r} is empty", str(queue.folder), "oxrl onboard --queue FILE")
    command = [sys.executable, "-P", "-m", "swarm.onboard.work", name]
    if miniature_only:
        command.append("--miniature")
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "OXRL_HOME": str(home), "PYTHONPATH": path}
    others = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for _ in range(max(0, workers - 1))]
    try:
        queue.work(lambda item: onboard_item(home, name, item, miniature_only))
    finally:
        for other in others:
            other.terminate()  # the queue is empty, or its caller leaves: the runs go on by themselves
            other.wait()
    return queue.view()


def verify_model(
    model: str, *, home: Path, task: str = "", say: Callable[[Status], None] | None = None
) -> Verification:
    """The verification of a model, made anew: the whole onboarding once more at the level that the machine allows."""
    entry = archive.read_entry(home, archive.slug_of(model))
    view = onboard_model(str(entry.get("model") or model), task or str(entry.get("task") or ""), home=home)
    run = RunDir(launch.find_run(home, view.run_id).path)
    status = wait_until_ended(run, say)
    verification = verification_of(run)
    if verification is None or status.state != "finished":
        error = status.error or {}
        why = str(error.get("what") or f"the onboarding ended {status.state}")
        raise OxrlError(why, run.run_id, f"oxrl diagnose {run.run_id}")
    return verification


def verification_of(run: RunDir) -> Verification | None:
    """What an onboarding has found out; None where it has not come so far."""
    record = read_json(run.path / "verification.json")
    return None if record is None else Verification.model_validate(record)


def main() -> int:
    """A worker of a queue: the number of items that it did, as its last line."""
    from oxrl_core.runs.rundir import oxrl_home

    home, name = oxrl_home(), sys.argv[1]
    done = Queue(home, name).work(lambda item: onboard_item(home, name, item, "--miniature" in sys.argv[2:]))
    print(done, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
