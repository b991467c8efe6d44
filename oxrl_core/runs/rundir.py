"""The run directory: the contract between training and everything that watches it. Files are the truth.

    <home>/runs/<run id>/
      spec.json       what was asked: name, kind, key, budget, command; written once, before anything starts
      config.yaml     the resolved configuration
      status.json     the supervisor's record: state, identities, heartbeat, exit
      progress.json   the driver's record: phase, step, newest metrics
      stop.json       a request to stop: reason and grace
      error.json      the driver's last word where it failed on purpose
      events.jsonl metrics.jsonl rollouts/ checkpoints/ logs/driver.log logs/supervisor.log

How these files are written and read whole: records.py, logs.py. What they say together: status.py.
The supervisor imports these modules: nothing but the standard library is imported at their top.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

from oxrl_core.errors import MachineError, NotFoundError
from oxrl_core.runs import clock, process
from oxrl_core.runs.logs import LogChunk, end_last_line, read_log
from oxrl_core.runs.machine.disk import disk_error
from oxrl_core.runs.process import ProcessIdentity
from oxrl_core.runs.records import (
    append_line,
    file_lock,
    finite,
    read_json,
    read_lines,
    thin,
    whole_lines_size,
    write_json,
    write_text,
)
from oxrl_core.runs.status import FindMembers, Status, living_processes, read_status

if TYPE_CHECKING:
    from oxrl_core.config.load import LoadedConfig
    from oxrl_core.config.schema import Config

Level = Literal["debug", "info", "warning", "error"]
ALERT_LEVELS: frozenset[str] = frozenset({"warning", "error"})
ELSEWHERE = "or set OXRL_HOME to another disk"  # what else helps where a home cannot be written
RUN_FOLDER = "{run_folder}"  # in a spec's command: the folder of the run, which is named when it is made
RUN_ID_PATTERN = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)-(?P<stamp>\d{6}-\d{6})-[0-9a-f]{4}$")


def oxrl_home() -> Path:
    """The folder of all runs and caches: $OXRL_HOME, else ~/.oxrl."""
    return Path(os.environ.get("OXRL_HOME") or Path.home() / ".oxrl").expanduser().absolute()


class RunDir:
    """One run on disk. The driver writes through it, everyone else reads through it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self._checked_ends: set[str] = set()
        self.num_gpus = 0.0  # that the driver holds: it says so, and GPU-hours are counted by it
        self.stop_reason = ""  # why the driver leaves of itself
        self._phase = ""
        self._phase_since = 0.0
        self._phase_seconds: dict[str, deque[float]] = {}  # how long the latest stretches of each phase lasted
        self._beat_at: float | None = None
        self._beat_lock = Lock()
        self._steps: tuple[int, int | None] = (0, None)
        self._last_step: tuple[int, float] | None = None
        self._step_seconds: deque[float] = deque(maxlen=20)
        self._metrics: dict[str, Any] = {}
        self._identity: ProcessIdentity | None = None

    def __repr__(self) -> str:
        return f"RunDir({str(self.path)!r})"

    @property
    def run_id(self) -> str:
        return self.path.name

    @property
    def home(self) -> Path:
        """The oxRL home that this run stands in."""
        return self.path.parent.parent

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def rollouts(self) -> Path:
        return self.path / "rollouts"

    # ---------------------------------------------------------------- creation

    @classmethod
    def create(
        cls,
        home: Path,
        loaded: LoadedConfig,
        kind: str,
        key: str = "",
        command: Sequence[str] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> RunDir:
        """A new run directory with spec and configuration, not launched.

        `command` replaces the training driver; `facts` are added to the spec, or stand in it instead.
        """
        from oxrl_core.config.load import config_hash, config_to_yaml

        run = loaded.config.run
        spec: dict[str, Any] = {
            "kind": kind,
            "key": key,
            "config_hash": config_hash(loaded.config),
            "cwd": str(Path.cwd()),
            "max_hours": run.max_hours,
            "max_gpu_hours": run.max_gpu_hours,
            # Only the training driver goes on from a checkpoint, and only where it may.
            "max_restarts": run.max_restarts if command is None and loaded.config.train.resume else 0,
            "on_stall": run.on_stall,
            "stall_seconds": run.stall_seconds,
            # A download, a cluster and engines that load: each has its own deadline before this one.
            "start_stall_seconds": max(run.stall_seconds, 3 * run.start_timeout_seconds),
            "stop_grace_seconds": run.stop_grace_seconds,
            "origins": dict(loaded.origins),
            "notes": list(loaded.notes),
        }
        if command is not None:
            spec["command"] = list(command)
        spec |= facts or {}
        return cls.create_from_parts(home, run.name, config_to_yaml(loaded.config), spec)

    @classmethod
    def create_from_parts(cls, home: Path, name: str, config_yaml: str, spec: dict[str, Any]) -> RunDir:
        """A new run directory from the text of its configuration and the rest of its spec, not launched."""
        runs = home / "runs"
        path: Path | None = None
        try:
            runs.mkdir(parents=True, exist_ok=True)
            for _ in range(100):
                stamp = datetime.now().strftime("%y%m%d-%H%M%S")
                candidate = runs / f"{name}-{stamp}-{secrets.token_hex(2)}"
                try:
                    candidate.mkdir(mode=0o700)  # the claim: two launchers cannot both succeed
                except FileExistsError:
                    continue
                path = candidate
                break
            if path is None:
                raise MachineError(f"no free run id for {name}", str(runs), "try again")
            for folder in ("logs", "checkpoints", "rollouts"):
                (path / folder).mkdir()
            write_text(path / "config.yaml", config_yaml, durable=True)
            # spec.json comes last: a directory without it is not a run, and readers pass it by.
            created = clock.stamp()
            birth = {"run_id": path.name, "name": name, "created_at": created["time"], "created": created}
            write_json(path / "spec.json", {**birth, **spec}, durable=True)
        except OSError as error:
            if path is not None:
                shutil.rmtree(path, ignore_errors=True)
            raise disk_error(error, runs, ELSEWHERE) from error
        run = cls(path)
        run.append_event("info", "created", f"run {run.run_id} created", config_hash=spec.get("config_hash", ""))
        return run

    def spec(self) -> dict[str, Any]:
        """What was asked, as written once at creation."""
        spec = read_json(self.path / "spec.json")
        if spec is None:
            raise NotFoundError(
                f"{self.run_id} is not a run: it has no readable spec.json", str(self.path), "oxrl run list"
            )
        return spec

    def config(self) -> Config:
        """The resolved configuration of this run."""
        from oxrl_core.config.load import read_resolved

        return read_resolved(self.path / "config.yaml")

    # ---------------------------------------------------------------- the driver's side

    def write_progress(
        self, phase: str, step: int, total_steps: int | None, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Replace progress.json. It is also the driver's heartbeat: call it whenever something was achieved."""
        now = time.monotonic()
        is_new_phase = phase != self._phase
        if self._last_step is None or step < self._last_step[0] or (is_new_phase and step == self._last_step[0]):
            self._last_step = (step, now)  # the first step's time does not hold the start of the engines
        elif step > self._last_step[0]:
            self._step_seconds.append((now - self._last_step[1]) / (step - self._last_step[0]))
            self._last_step = (step, now)
        self._steps = (step, total_steps)
        if metrics is not None:
            self._metrics = finite(metrics)
        self._beat(phase)

    def enter_phase(self, phase: str) -> None:
        """Say what the driver does now, between two calls of write_progress: a phase has a limit of its own."""
        with suppress(OSError):  # a full disk is told by whatever has to be written, not by a heartbeat
            self._beat(phase)

    def _beat(self, phase: str) -> None:
        now = clock.stamp()
        with self._beat_lock:  # rollouts may be drawn in a thread of their own
            if self._beat_at is not None:
                lasted = now["monotonic"] - self._beat_at
                self._phase_seconds.setdefault(self._phase, deque(maxlen=20)).append(lasted)
            self._beat_at = now["monotonic"]
            if phase != self._phase:
                self._phase, self._phase_since = phase, now["time"]
            step, total_steps = self._steps
            record: dict[str, Any] = {
                **now,
                "phase": phase,
                "phase_since": self._phase_since,
                "phase_seconds": _median(self._phase_seconds.get(phase, ())),
                "step": step,
                "total_steps": total_steps,
                "step_seconds": _median(self._step_seconds),
                "process": self._own_identity(),
                "gpus": self.num_gpus,
                "reason": self.stop_reason,
                "metrics": self._metrics,
            }
            write_json(self.path / "progress.json", record)

    def _own_identity(self) -> dict[str, Any] | None:
        if self._identity is None or self._identity.pid != os.getpid():  # a fork is another process
            self._identity = process.identify(os.getpid())
        return self._identity.as_dict() if self._identity else None

    def append_metrics(self, row: Mapping[str, float]) -> None:
        """Add one row to metrics.jsonl. A value that is not finite is written as null, which is how JSON can say it."""
        self._append("metrics.jsonl", finite(row))

    def append_event(self, level: Level, code: str, message: str, **fields: Any) -> None:
        """Add one event; levels `warning` and `error` are the run's alerts."""
        self._append("events.jsonl", {"time": time.time(), "level": level, "code": code, "message": message, **fields})

    def tell_going_on(self) -> None:
        """Say to whoever lists runs that this one, which had ended, is to be looked at again (index.py)."""
        os.utime(self.path.parent)

    def forget_rollouts_after(self, step: int) -> None:
        """Remove the recorded rollouts of later steps: a run that goes on from here records them again."""
        for path in self.rollouts.glob("step-*.parquet"):
            number = path.stem.removeprefix("step-")
            if number.isdigit() and int(number) > step:
                path.unlink(missing_ok=True)

    def write_error(self, error: Mapping[str, str]) -> None:
        """The driver's last word: `OxrlError.as_dict()`."""
        write_json(self.path / "error.json", dict(error), durable=True)

    def _append(self, name: str, record: Mapping[str, Any]) -> None:
        # A writer that died inside a line must not swallow the first line of its successor.
        mend = name not in self._checked_ends
        self._checked_ends.discard(name)  # a write that fails now may have left a torn line as well
        append_line(self.path / name, record, mend=mend)
        self._checked_ends.add(name)

    # ---------------------------------------------------------------- readers

    def status(self, members: FindMembers = process.members_by_run) -> Status:
        """The state of the run now. A `members` that remembers saves scans where many runs are read."""
        return read_status(self.path, self.spec(), members)

    def living_processes(self, record: Mapping[str, Any] | None = None) -> list[ProcessIdentity]:
        """The living processes of this run that can be found without its supervisor, the supervisor left out."""
        return living_processes(self.path, record)

    def metrics(
        self, names: Sequence[str] | None = None, from_step: int = 0, max_points: int | None = None
    ) -> list[dict[str, Any]]:
        """Rows by step, the latest writing of a step winning; thinned evenly to `max_points`, first and last kept."""
        by_step: dict[int, dict[str, Any]] = {}
        for row in read_lines(self.path / "metrics.jsonl"):
            step = row.get("step")
            if isinstance(step, (int, float)) and step >= from_step:
                by_step.setdefault(int(step), {}).update(row)
        rows = [by_step[step] for step in sorted(by_step)]
        if names is not None:
            wanted = ("step", *names)
            rows = [{name: row[name] for name in wanted if name in row} for row in rows]
            rows = [row for row in rows if len(row) > 1 or not names]
        return thin(rows, max_points)

    def events(self, from_byte: int = 0, alerts_only: bool = False) -> list[dict[str, Any]]:
        """Events in the order of writing; `from_byte` is an earlier `events_size`."""
        events = read_lines(self.path / "events.jsonl", from_byte)
        return [event for event in events if event.get("level") in ALERT_LEVELS] if alerts_only else events

    def events_size(self) -> int:
        """Bytes of whole event lines so far: a cursor for `events`."""
        return whole_lines_size(self.path / "events.jsonl")

    def log_names(self) -> list[str]:
        """The logs that `read_logs` can read, as `driver` for logs/driver.log."""
        try:
            return sorted(name[:-4] for name in os.listdir(self.logs) if name.endswith(".log"))  # noqa: PTH208 (quicker)
        except FileNotFoundError:
            return []

    def read_logs(self, cursor: int | None = None, lines: int = 100, grep: str = "", name: str = "driver") -> LogChunk:
        """Without a cursor the last lines, with one the next lines after it; `grep` keeps lines that hold the text."""
        names = self.log_names()
        if name not in names:
            known = ", ".join(names) or "none yet"
            if name == "driver":
                return LogChunk([], 0, 0)  # the run has not begun
            raise NotFoundError(f"there is no log {name!r}", str(self.logs), f"this run has: {known}")
        return read_log(self.logs / f"{name}.log", cursor, lines, grep)

    def end_log_line(self, name: str = "driver") -> None:
        """Finish the last line of a log whose writer has died inside it, so that readers of whole lines see it."""
        end_last_line(self.logs / f"{name}.log")

    @contextmanager
    def lock(self, timeout_seconds: float) -> Generator[None]:
        """Holds the right to write status.json: the supervisor for its whole life, else who stops an orphan."""
        with file_lock(self.path / ".lock", timeout_seconds):
            yield


def _median(values: Iterable[float]) -> float | None:
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else None
