"""Starts that another run asks for: each has a key, so that whoever asks again after a death gets the same run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from oxrl_core.api.configs import load_checked, report_of
from oxrl_core.errors import OxrlError
from oxrl_core.runs import launch
from oxrl_core.runs.rundir import RunDir
from oxrl_core.runs.status import Status
from oxrl_core.runs.supervision import resume
from oxrl_core.runs.supervision.outcome import RESTARTABLE
from swarm.bugfix.outcome import Outcome, refused

POLL_SECONDS = 0.5
# A child that stands still is ended: its parent waits for it, and diagnoses why.
SUPERVISED = ("run.on_stall=stop",)


def start_child(parent: RunDir, label: str, config_yaml: str, overrides: Sequence[str]) -> RunDir | Outcome:
    """The run of this label, launched or gone on with; or the outcome of a configuration that is refused."""
    key = f"{parent.run_id}/{label}"
    try:
        loaded = load_checked(config_yaml, [*overrides, *SUPERVISED])
        report = report_of(loaded, parent.home)
    except OxrlError as error:
        return refused(error)
    known = launch.find_by_key(parent.home, key, report.config_hash)
    if known is None and not report.ok:
        return refused(problems=[problem for problem in report.problems if problem.severity == "error"])
    facts: dict[str, Any] = {"started_by": {"run_id": parent.run_id, "label": label}}
    try:
        run, created = launch.open_run(parent.home, loaded, report.kind, key, facts=facts)
        if created or not (run.path / "status.json").exists():
            launch.launch(run)
        elif _was_cut_short(run.status()):
            resume.resume(run)
    except OxrlError as error:
        return refused(error)
    return run


def _was_cut_short(status: Status) -> bool:
    """Whether a run ended because its parent did, not by its own fault."""
    if status.state in ("stopped", "lost", "orphaned"):
        return True
    return status.state == "failed" and (status.error or {}).get("code") in RESTARTABLE


def wait_for(run: RunDir, beat: Callable[[Status], None], deadline: float | None = None) -> Status:
    """The status of a run that has ended. `beat` is called at every look; after the deadline the run is stopped."""
    while True:
        status = run.status()
        if status.has_ended:
            return status
        if status.state == "orphaned":
            launch.adopt(run)
        if deadline is not None and time.time() > deadline:
            return launch.stop(run, "the time of the repair is spent")
        beat(status)
        time.sleep(POLL_SECONDS)
