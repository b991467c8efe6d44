"""What is true of a run now, from the supervisor's record, the driver's record and the living processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from oxrl_core.runs import process
from oxrl_core.runs.clock import seconds_since
from oxrl_core.runs.process import ProcessIdentity
from oxrl_core.runs.records import read_json
from oxrl_core.runs.supervision.stall import StallLimits, own_progress, quiet_seconds

State = Literal[
    "queued",  # created, no supervisor yet
    "starting",  # the driver lives and has taken no step yet
    "running",
    "stalled",  # the driver lives and has written no progress for very long
    "stopping",
    "finished",
    "failed",
    "stopped",
    "needs_input",  # parked: its driver has left until somebody decides
    "lost",  # supervisor and processes are gone and left no final record
    "orphaned",  # the supervisor is gone, processes of the run live
]
FindMembers = Callable[[], Mapping[str, list[ProcessIdentity]]]  # process.members_by_run, or one that remembers
ENDED_STATES: frozenset[str] = frozenset({"finished", "failed", "stopped", "needs_input", "lost"})

_NEVER_STARTED_SECONDS = 60.0
_REMOTE_HEARTBEAT_SECONDS = 60.0  # how stale the heartbeat of another machine's supervisor may be


@dataclass(frozen=True)
class Status:
    """What is true of a run now."""

    run_id: str
    state: State
    phase: str = ""
    phase_since: float | None = None
    step: int = 0
    total_steps: int | None = None
    metrics: dict[str, float | None] = field(default_factory=dict[str, "float | None"])
    step_seconds: float | None = None  # median of the latest steps
    created_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    elapsed_seconds: float | None = None  # since the launch, over all attempts; the clock on the wall has no say in it
    restarts: int = 0  # how often the driver was started again
    heartbeat_at: float | None = None  # supervisor
    progress_at: float | None = None  # driver
    exit_code: int | None = None  # negative: the signal that ended the driver
    error: dict[str, str] | None = None
    log_tail: list[str] = field(default_factory=list[str])
    stop_reason: str = ""
    supervisor: ProcessIdentity | None = None
    driver: ProcessIdentity | None = None
    leftovers: list[int] = field(default_factory=list[int])  # pids that could not be ended

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED_STATES


def read_status(folder: Path, spec: Mapping[str, Any], members: FindMembers = process.members_by_run) -> Status:
    """The state of the run in this folder now. `members` is asked at most once, and only where the supervisor is dead:
    a cached process.members_by_run saves scans of /proc where many runs are read.
    """
    record = read_json(folder / "status.json") or {}
    progress = read_json(folder / "progress.json") or {}
    now = time.time()
    age = seconds_since(spec.get("created") or {"time": spec.get("created_at")})
    created_at = float(spec.get("created_at", 0.0))
    supervisor = ProcessIdentity.from_dict(record.get("supervisor"))
    driver = ProcessIdentity.from_dict(record.get("driver") or progress.get("process"))
    started_at, ended_at = record.get("started_at"), record.get("ended_at")
    error = record.get("error")
    state: State = record.get("state", "queued")
    limits = StallLimits.of(spec)
    phase = str(own_progress(progress, record).get("phase") or record.get("phase") or "")
    if not record and ((progress and driver is not None) or (folder / "error.json").exists()):
        # Started by hand (torchrun): nobody supervises it, but it writes its progress and its last word.
        started_at = created_at
        if _lives(driver, float(progress.get("time") or 0.0), now):
            state = _living_state("running", progress, {"started_at": created_at}, limits)
        else:
            state, error = _last_word_of_driver(folder, progress, None)
            ended_at = progress.get("time") or created_at
    elif not record and age > _NEVER_STARTED_SECONDS:
        state = "lost"
        error = {
            "code": "NeverStarted",
            "what": "the run was created but its launcher ended before it started it",
            "where": str(folder),
            "next": "launch it again",
        }
    elif record and state not in ENDED_STATES:
        if _lives(supervisor, float(record.get("heartbeat_at") or 0.0), now):
            state = _living_state(state, progress, record, limits)
        elif process.is_alive(ProcessIdentity.from_dict(record.get("stand_in"))):
            state = "stopping"  # somebody ends the orphan in the supervisor's place
        elif living_processes(folder, record, members):
            state = "orphaned"
            error = error or {
                "code": "Orphaned",
                "what": "the supervisor of the run died; processes of the run live on without supervision",
                "where": str(folder),
                "next": f"oxrl run adopt {folder.name} (supervises them again), or oxrl run stop (ends them)",
            }
        else:
            # The supervisor may have written its last word and left between our two looks.
            record = read_json(folder / "status.json") or record
            state, error = record.get("state", state), record.get("error")
            ended_at = record.get("ended_at")
            if state not in ENDED_STATES:
                progress = read_json(folder / "progress.json") or progress
                state, error = _last_word_of_driver(folder, progress, error)
    return Status(
        run_id=folder.name,
        state=state,
        phase=phase,
        phase_since=progress.get("phase_since"),
        step=int(progress.get("step") or 0),
        total_steps=progress.get("total_steps") or None,
        metrics=progress.get("metrics") or {},
        step_seconds=progress.get("step_seconds"),
        created_at=created_at,
        started_at=started_at,
        ended_at=ended_at,
        elapsed_seconds=_elapsed(record, state, started_at, ended_at),
        restarts=len(record.get("failures") or []) - int(state in ("failed", "lost") and bool(record.get("failures"))),
        heartbeat_at=record.get("heartbeat_at"),
        progress_at=progress.get("time"),
        exit_code=record.get("exit_code"),
        error=error,
        log_tail=list(record.get("log_tail") or []),
        stop_reason=str(record.get("stop_reason") or own_progress(progress, record).get("reason") or ""),
        supervisor=supervisor,
        driver=driver,
        leftovers=list(record.get("leftovers") or []),
    )


def _elapsed(record: Mapping[str, Any], state: State, started_at: float | None, ended_at: float | None) -> float | None:
    """Seconds from the launch to the end, or to now."""
    spent = cast("dict[str, float]", record.get("spent") or {}).get("seconds")
    if spent is not None:
        heartbeat = record.get("heartbeat")
        return spent + (seconds_since(heartbeat) if heartbeat and state not in ENDED_STATES else 0.0)
    return None if started_at is None else max(0.0, (ended_at or time.time()) - started_at)


def living_processes(
    folder: Path,
    record: Mapping[str, Any] | None = None,
    members: FindMembers = process.members_by_run,
) -> list[ProcessIdentity]:
    """The living processes of a run that can be found without its supervisor; supervisor and caller are left out.

    Three nets: what the supervisor last saw below it, everything below those, and the run id in an environment.
    """
    record = record if record is not None else read_json(folder / "status.json") or {}
    supervisor = ProcessIdentity.from_dict(record.get("supervisor"))
    progress = read_json(folder / "progress.json") or {}
    known = [ProcessIdentity.from_dict(one) for one in (record.get("driver"), progress.get("process"))]
    if supervisor is not None:
        seen = cast("list[tuple[int, int]]", record.get("processes") or [])
        known += [ProcessIdentity(pid, start, supervisor.boot, supervisor.host) for pid, start in seen]
    # Not the caller itself: what it has started for other ends would count as the run's.
    others = [identity for identity in known if identity is not None and identity.pid != os.getpid()]
    found = {identity for identity in others if process.is_alive(identity)}
    if found:
        found.update(process.descendants(identity.pid for identity in list(found)))
    found.update(members().get(folder.name, []))
    return [identity for identity in found if identity != supervisor and identity.pid != os.getpid()]


def _lives(identity: ProcessIdentity | None, heartbeat_at: float, now: float) -> bool:
    if identity is not None and process.is_foreign_host(identity):
        return now - heartbeat_at < _REMOTE_HEARTBEAT_SECONDS
    return process.is_alive(identity)


def _last_word_of_driver(
    folder: Path, progress: Mapping[str, Any], error: dict[str, str] | None
) -> tuple[State, dict[str, str] | None]:
    """How a run ended that has no supervisor to say so: finished, failed or stopped by its own word, else lost."""
    phase = progress.get("phase")
    if phase in ("finished", "stopped", "needs_input"):
        return phase, None
    said = read_error(folder)
    if said is not None:
        return "failed", said
    return "lost", error or {
        "code": "Lost",
        "what": "every process of the run is gone without a final record (machine restarted, out of memory, or killed)",
        "where": str(folder),
        "next": f"oxrl run logs {folder.name}; oxrl run adopt {folder.name} goes on from the last checkpoint",
    }


def read_error(folder: Path) -> dict[str, str] | None:
    """The driver's last word where it failed on purpose."""
    said = read_json(folder / "error.json")
    return None if said is None else {name: str(said.get(name, "")) for name in ("code", "what", "where", "next")}


def _living_state(
    recorded: State, progress: Mapping[str, Any], record: Mapping[str, Any], limits: StallLimits
) -> State:
    if recorded == "stopping":
        return recorded
    mine = own_progress(progress, record)
    if quiet_seconds(progress, record) > limits.limit(mine):
        return "stalled"
    return "running" if int(mine.get("step") or 0) else "starting"
