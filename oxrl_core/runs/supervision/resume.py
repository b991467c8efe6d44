"""Going on with a run that has ended: in its own directory, from its newest checkpoint."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from oxrl_core.errors import ConfigError, MachineError
from oxrl_core.runs import launch
from oxrl_core.runs.records import read_json
from oxrl_core.runs.rundir import RunDir
from oxrl_core.runs.status import Status
from oxrl_core.runs.supervision.budget import Budget

RESUMABLE = frozenset({"stopped", "failed", "needs_input", "lost", "orphaned"})


def resume(run: RunDir, *, python: str = sys.executable) -> tuple[Status, bool]:
    """The run as it goes on, and whether it was started just now; a run that lives is left as it is.

    Two that resume one run at once start it once: the supervisor holds the run's lock.
    """
    status = run.status()
    if not status.has_ended and status.state != "orphaned":
        return status, False
    if status.state in ("orphaned", "lost"):
        return launch.adopt(run, python=python), True
    check_can_resume(run, status)
    resumes = len((read_json(run.path / "status.json") or {}).get("resumed") or [])
    answer = launch.start_supervisor(run, python, "--resume")
    if "error" in answer:
        raise MachineError(*(str(answer["error"][name]) for name in ("what", "where", "next")))
    record = read_json(run.path / "status.json") or {}
    return run.status(), len(record.get("resumed") or []) > resumes


def check_can_resume(run: RunDir, status: Status) -> None:
    """Raises where going on would do nothing, or something else than going on."""
    spec, record = run.spec(), read_json(run.path / "status.json") or {}
    if status.state == "finished":
        raise ConfigError(
            f"the run has finished its {status.step} steps",
            run.run_id,
            "fork it with a larger train.steps, or launch a run from its model (model.path=run:<id>)",
        )
    if status.leftovers:
        raise MachineError(
            f"processes of the run still live: {status.leftovers}", run.run_id, "end them, then resume the run"
        )
    if spec.get("resumable"):  # a journal of its own says where it goes on
        return
    # `resumes`: a command that goes on by itself from what it left in its directory.
    if (spec.get("command") and not spec.get("resumes")) or spec.get("kind") in ("replay", "evaluate"):
        raise ConfigError(f"a run of kind {spec.get('kind')} has no checkpoints", run.run_id, "ask for it once more")
    if not run.config().train.resume:
        raise ConfigError(
            "its configuration says train.resume: false: it would begin anew", run.run_id, "launch it again instead"
        )
    exceeded = Budget.of(spec, {"spent": record.get("spent")}).exceeded()
    if exceeded:
        raise ConfigError(exceeded, run.run_id, "fork it from its last step with a larger budget")


def resumed_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the status of a run that ended hands on to its next supervisor: what was spent, and how it had ended."""
    ended = {name: record.get(name) for name in ("state", "ended_at", "stop_reason", "exit_code", "error")}
    return {
        "started_at": record.get("started_at"),
        "spent": record.get("spent") or {},
        "resumed": [*(record.get("resumed") or []), ended],
    }
