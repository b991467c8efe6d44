"""The run directory: the contract between training and everything that watches it. Files are the truth.

    <home>/runs/<run id>/
      spec.json       what was asked: name, kind, key, budget, command; written once, before anything starts
      config.yaml     the resolved configuration
      status.json     the supervisor's record: state, identities, heartbeat, exit
      progress.json   the driver's record: phase, step, newest metrics
      stop.json       a request to stop: reason and grace
      error.json      the driver's last word where it failed on purpose
      events.jsonl metrics.jsonl rollouts/ checkpoints/ logs/driver.log logs/supervisor.log

Every JSON file is replaced in one rename; every line of a .jsonl is one write(). Readers ignore a torn last line.
The supervisor imports this module: nothing but the standard library is imported at its top.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import re
import secrets
import shutil
import time
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from oxrl_core.errors import DeadlineError, MachineError, NotFoundError
from oxrl_core.runs import process
from oxrl_core.runs.process import ProcessIdentity

if TYPE_CHECKING:
    from oxrl_core.config.load import LoadedConfig
    from oxrl_core.config.schema import Config

State = Literal[
    "queued",  # created, no supervisor yet
    "starting",  # the driver lives and has taken no step yet
    "running",
    "stalled",  # the driver lives and has written no progress for very long
    "stopping",
    "finished",
    "failed",
    "stopped",
    "lost",  # supervisor and processes are gone and left no final record
    "orphaned",  # the supervisor is gone, processes of the run live
]
ENDED_STATES: frozenset[str] = frozenset({"finished", "failed", "stopped", "lost"})
Level = Literal["debug", "info", "warning", "error"]
ALERT_LEVELS: frozenset[str] = frozenset({"warning", "error"})

T = TypeVar("T")
RUN_ID_PATTERN = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)-(?P<stamp>\d{6}-\d{6})-[0-9a-f]{4}$")
_STALL_SECONDS = 300.0  # or ten median steps, whichever is longer
_START_STALL_SECONDS = 1800.0  # a large model loads and downloads for long
_NEVER_STARTED_SECONDS = 60.0
_REMOTE_HEARTBEAT_SECONDS = 60.0  # how stale the heartbeat of another machine's supervisor may be
_MAX_LOG_LINE = 4000
_MAX_GREP_BYTES = 64 * 2**20
_LOG_BLOCK = 2**16
# Colours, cursor moves and other control characters; outside text must not steer a terminal or hide itself.
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b.|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_INVISIBLE = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]")


def oxrl_home() -> Path:
    """The folder of all runs and caches: $OXRL_HOME, else ~/.oxrl."""
    return Path(os.environ.get("OXRL_HOME") or Path.home() / ".oxrl").expanduser().absolute()


@dataclass(frozen=True)
class LogChunk:
    """Lines of a log, and the byte offset from which to read on."""

    lines: list[str]
    cursor: int
    total_bytes: int


@dataclass(frozen=True)
class Status:
    """What is true of a run now, from the supervisor's and the driver's records and the living processes."""

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


class RunDir:
    """One run on disk. The driver writes through it, everyone else reads through it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self._checked_ends: set[str] = set()
        self._phase = ""
        self._phase_since = 0.0
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
        cls, home: Path, loaded: LoadedConfig, kind: str, key: str = "", command: Sequence[str] | None = None
    ) -> RunDir:
        """A new run directory with spec and configuration, not launched. `command` replaces the training driver."""
        from oxrl_core.config.load import config_hash, config_to_yaml

        run = loaded.config.run
        spec: dict[str, Any] = {
            "kind": kind,
            "key": key,
            "config_hash": config_hash(loaded.config),
            "cwd": str(Path.cwd()),
            "max_hours": run.max_hours,
            "stop_grace_seconds": run.stop_grace_seconds,
            "origins": dict(loaded.origins),
            "notes": list(loaded.notes),
        }
        if command is not None:
            spec["command"] = list(command)
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
            birth = {"run_id": path.name, "name": name, "created_at": time.time()}
            write_json(path / "spec.json", {**birth, **spec}, durable=True)
        except OSError as error:
            if path is not None:
                shutil.rmtree(path, ignore_errors=True)
            raise _disk_error(error, runs) from error
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
        now = time.time()
        if phase != self._phase:
            self._phase, self._phase_since = phase, now
        if self._last_step is None or step < self._last_step[0]:
            self._last_step = (step, now)
        elif step > self._last_step[0]:
            self._step_seconds.append((now - self._last_step[1]) / (step - self._last_step[0]))
            self._last_step = (step, now)
        record: dict[str, Any] = {
            "time": now,
            "phase": phase,
            "phase_since": self._phase_since,
            "step": step,
            "total_steps": total_steps,
            "step_seconds": sorted(self._step_seconds)[len(self._step_seconds) // 2] if self._step_seconds else None,
            "process": self._own_identity(),
        }
        if metrics is not None:
            self._metrics = _finite(metrics)
        record["metrics"] = self._metrics
        write_json(self.path / "progress.json", record)

    def _own_identity(self) -> dict[str, Any] | None:
        if self._identity is None or self._identity.pid != os.getpid():  # a fork is another process
            self._identity = process.identify(os.getpid())
        return self._identity.as_dict() if self._identity else None

    def append_metrics(self, row: Mapping[str, float]) -> None:
        """Add one row to metrics.jsonl. A value that is not finite is written as null, which is how JSON can say it."""
        self._append("metrics.jsonl", _finite(row))

    def append_event(self, level: Level, code: str, message: str, **fields: Any) -> None:
        """Add one event; levels `warning` and `error` are the run's alerts."""
        self._append("events.jsonl", {"time": time.time(), "level": level, "code": code, "message": message, **fields})

    def write_error(self, error: Mapping[str, str]) -> None:
        """The driver's last word: `OxrlError.as_dict()`."""
        write_json(self.path / "error.json", dict(error), durable=True)

    def _append(self, name: str, record: Mapping[str, Any]) -> None:
        line = (json.dumps(record, ensure_ascii=False, default=str) + "\n").encode()
        descriptor = os.open(self.path / name, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            if name not in self._checked_ends:
                # A writer that died inside a line must not swallow the first line of its successor.
                size = os.fstat(descriptor).st_size
                if size and os.pread(descriptor, 1, size - 1) != b"\n":
                    line = b"\n" + line
                self._checked_ends.add(name)
            os.write(descriptor, line)
        finally:
            os.close(descriptor)

    # ---------------------------------------------------------------- readers

    def status(self, members: Mapping[str, list[ProcessIdentity]] | None = None) -> Status:
        """The state of the run now. `members` (process.members_by_run()) saves a scan where many runs are read."""
        spec = self.spec()
        record = read_json(self.path / "status.json") or {}
        progress = read_json(self.path / "progress.json") or {}
        now = time.time()
        created_at = float(spec.get("created_at", 0.0))
        supervisor = ProcessIdentity.from_dict(record.get("supervisor"))
        driver = ProcessIdentity.from_dict(record.get("driver") or progress.get("process"))
        error = record.get("error")
        state: State = record.get("state", "queued")
        phase = str(progress.get("phase", "") or record.get("phase", ""))
        if not record and progress and driver is not None:
            # Started by hand (torchrun): nobody supervises it, but it writes its progress.
            if self._lives(driver, float(progress.get("time") or 0.0), now):
                state = self._living_state("running", progress, created_at, now)
            else:
                state, error = self._last_word_of_driver(progress, None)
        elif not record and now - created_at > _NEVER_STARTED_SECONDS:
            state = "lost"
            error = {
                "code": "NeverStarted",
                "what": "the run was created but its launcher ended before it started it",
                "where": str(self.path),
                "next": "launch it again",
            }
        elif record and state not in ENDED_STATES:
            if self._lives(supervisor, float(record.get("heartbeat_at") or 0.0), now):
                state = self._living_state(state, progress, float(record.get("started_at") or created_at), now)
            elif process.is_alive(ProcessIdentity.from_dict(record.get("stand_in"))):
                state = "stopping"  # somebody ends the orphan in the supervisor's place
            elif self.living_processes(record, members):
                state = "orphaned"
                error = error or {
                    "code": "Orphaned",
                    "what": "the supervisor of the run died; processes of the run live on without supervision",
                    "where": str(self.path),
                    "next": f"oxrl run stop {self.run_id} (it ends them), then launch again",
                }
            else:
                # The supervisor may have written its last word and left between our two looks.
                record = read_json(self.path / "status.json") or record
                state, error = record.get("state", state), record.get("error")
                if state not in ENDED_STATES:
                    progress = read_json(self.path / "progress.json") or progress
                    state, error = self._last_word_of_driver(progress, error)
        return Status(
            run_id=self.run_id,
            state=state,
            phase=phase,
            phase_since=progress.get("phase_since"),
            step=int(progress.get("step") or 0),
            total_steps=progress.get("total_steps") or None,
            metrics=progress.get("metrics") or {},
            step_seconds=progress.get("step_seconds"),
            created_at=created_at,
            started_at=record.get("started_at"),
            ended_at=record.get("ended_at"),
            heartbeat_at=record.get("heartbeat_at"),
            progress_at=progress.get("time"),
            exit_code=record.get("exit_code"),
            error=error,
            log_tail=list(record.get("log_tail") or []),
            stop_reason=str(record.get("stop_reason") or ""),
            supervisor=supervisor,
            driver=driver,
            leftovers=list(record.get("leftovers") or []),
        )

    @staticmethod
    def _lives(identity: ProcessIdentity | None, heartbeat_at: float, now: float) -> bool:
        if identity is not None and process.is_foreign_host(identity):
            return now - heartbeat_at < _REMOTE_HEARTBEAT_SECONDS
        return process.is_alive(identity)

    def _last_word_of_driver(
        self, progress: Mapping[str, Any], error: dict[str, str] | None
    ) -> tuple[State, dict[str, str] | None]:
        """How a run ended that has no supervisor to say so: finished or failed by its own word, else lost."""
        if progress.get("phase") == "finished":
            return "finished", None
        said = read_json(self.path / "error.json")
        if said is not None:
            return "failed", {name: str(said.get(name, "")) for name in ("code", "what", "where", "next")}
        return "lost", error or {
            "code": "Lost",
            "what": "every process of the run is gone without a final record "
            "(machine restarted, out of memory, or killed)",
            "where": str(self.path),
            "next": f"oxrl run logs {self.run_id}; launch again to go on",
        }

    @staticmethod
    def _living_state(recorded: State, progress: Mapping[str, Any], started_at: float, now: float) -> State:
        if recorded == "stopping":
            return recorded
        step = int(progress.get("step") or 0)
        quiet_seconds = now - float(progress.get("time") or started_at)
        limit = max(_STALL_SECONDS, 10 * float(progress.get("step_seconds") or 0)) if step else _START_STALL_SECONDS
        if quiet_seconds > limit:
            return "stalled"
        return "running" if step else "starting"

    def living_processes(
        self,
        record: Mapping[str, Any] | None = None,
        members: Mapping[str, list[ProcessIdentity]] | None = None,
    ) -> list[ProcessIdentity]:
        """The living processes of this run that can be found without its supervisor, the supervisor left out.

        Three nets: what the supervisor last saw below it, everything below those, and the run id in an environment.
        """
        record = record if record is not None else read_json(self.path / "status.json") or {}
        supervisor = ProcessIdentity.from_dict(record.get("supervisor"))
        progress = read_json(self.path / "progress.json") or {}
        known = [ProcessIdentity.from_dict(one) for one in (record.get("driver"), progress.get("process"))]
        if supervisor is not None:
            seen = cast("list[tuple[int, int]]", record.get("processes") or [])
            known += [ProcessIdentity(pid, start, supervisor.boot, supervisor.host) for pid, start in seen]
        found = {identity for identity in known if identity is not None and process.is_alive(identity)}
        if found:
            found.update(process.descendants(identity.pid for identity in list(found)))
        found.update((process.members_by_run() if members is None else members).get(self.run_id, []))
        return [identity for identity in found if identity != supervisor and identity.pid != os.getpid()]

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
        return _whole_lines_size(self.path / "events.jsonl")

    def log_names(self) -> list[str]:
        """The logs that `read_logs` can read, as `driver` for logs/driver.log."""
        return sorted(path.stem for path in self.logs.glob("*.log"))

    def read_logs(self, cursor: int | None = None, lines: int = 100, grep: str = "", name: str = "driver") -> LogChunk:
        """Without a cursor the last lines, with one the next lines after it; `grep` keeps lines that hold the text."""
        if name not in self.log_names():
            known = ", ".join(self.log_names()) or "none yet"
            if name == "driver":
                return LogChunk([], 0, 0)  # the run has not begun
            raise NotFoundError(f"there is no log {name!r}", str(self.logs), f"this run has: {known}")
        with (self.logs / f"{name}.log").open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if cursor is None:
                return _read_tail(file.fileno(), size, lines, grep)
            return _read_forward(file.fileno(), size, max(0, cursor), lines, grep)

    def end_log_line(self, name: str = "driver") -> None:
        """Finish the last line of a log whose writer has died inside it, so that readers of whole lines see it."""
        with (self.logs / f"{name}.log").open("ab+") as file:
            size = file.tell()
            if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
                file.write(b"\n")

    @contextmanager
    def lock(self, timeout_seconds: float) -> Generator[None]:
        """Holds the right to write status.json: the supervisor for its whole life, else who stops an orphan."""
        with file_lock(self.path / ".lock", timeout_seconds):
            yield


# -------------------------------------------------------------------- files


def write_text(path: Path, text: str, *, durable: bool = False) -> None:
    """Replace the file in one rename: a reader sees the old text or the new one. `durable` survives a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(3)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            data = memoryview(text.encode())
            while data:
                data = data[os.write(descriptor, data) :]
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, record: Mapping[str, Any], *, durable: bool = False) -> None:
    """Replace a JSON file in one rename."""
    write_text(path, json.dumps(record, ensure_ascii=False, default=str) + "\n", durable=durable)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, None where there is no file or no whole object."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return cast("dict[str, Any]", record) if isinstance(record, dict) else None


def read_lines(path: Path, from_byte: int = 0) -> list[dict[str, Any]]:
    """The objects of a .jsonl file from an offset on; lines that are torn or no object are passed by."""
    try:
        with path.open("rb") as file:
            file.seek(from_byte)
            data = file.read()
    except OSError:
        return []
    records: list[dict[str, Any]] = []
    for line in data.split(b"\n"):
        try:
            record = json.loads(line) if line else None
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(cast("dict[str, Any]", record))
    return records


@contextmanager
def file_lock(path: Path, timeout_seconds: float) -> Generator[None]:
    """Holds an exclusive lock that the kernel takes back when its holder dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + timeout_seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise DeadlineError(
                        f"another process held the lock for more than {timeout_seconds:g} s", str(path), "try again"
                    ) from None
                time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)


def thin(rows: list[T], max_points: int | None) -> list[T]:
    """At most `max_points` rows, evenly spaced, first and last among them."""
    if max_points is None or len(rows) <= max_points:
        return rows
    if max_points < 2:
        return rows[-max_points:] if max_points > 0 else []
    last = len(rows) - 1
    return [rows[round(index * last / (max_points - 1))] for index in range(max_points)]


def clean_line(text: str) -> str:
    """One log line without colours, control and invisible characters; of a redrawn progress bar the last drawing."""
    text = text.rstrip("\r")
    text = _INVISIBLE.sub("", _CONTROL.sub("", text[text.rfind("\r") + 1 :]))
    more = len(text) - _MAX_LOG_LINE
    return text if more <= 0 else f"{text[:_MAX_LOG_LINE]} [{more} more characters]"


def _finite(row: Mapping[str, float]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else _plain(value)
        for name, value in row.items()
    }


def _plain(value: Any) -> Any:
    """Numbers of array libraries as Python's own."""
    if isinstance(value, (bool, int, float, str)) or value is None:
        return value
    number = float(value)
    return number if math.isfinite(number) else None


def _disk_error(error: OSError, where: Path) -> MachineError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return MachineError("the disk is full", str(where), "free some space, or set OXRL_HOME to another disk")
    return MachineError(
        f"the run directory cannot be written: {error.strerror or error}",
        str(where),
        "set OXRL_HOME to a writable folder",
    )


def _whole_lines_size(path: Path) -> int:
    try:
        with path.open("rb") as file:
            end = os.fstat(file.fileno()).st_size
            while end > 0:
                start = max(0, end - 4096)
                position = os.pread(file.fileno(), end - start, start).rfind(b"\n")
                if position >= 0:
                    return start + position + 1
                end = start
            return 0
    except OSError:
        return 0


def _decode(line: bytes) -> str:
    return clean_line(line.decode("utf-8", errors="replace"))


def _read_tail(descriptor: int, size: int, lines: int, grep: str) -> LogChunk:
    """The last matching lines, read from the end in blocks: a log may be many gigabytes."""
    found: list[str] = []
    start, rest = size, b""
    while start > 0 and len(found) < lines and size - start < _MAX_GREP_BYTES:
        block_start = max(0, start - _LOG_BLOCK)
        block = os.pread(descriptor, start - block_start, block_start) + rest
        start = block_start
        pieces = block.split(b"\n")
        rest = pieces.pop(0)[-_LOG_BLOCK:] if start > 0 else b""  # of an endless line its end is enough
        for piece in reversed(pieces):
            if piece and len(found) < lines:
                line = _decode(piece)
                if grep in line:
                    found.append(line)
    return LogChunk(found[::-1], size, size)


def _read_forward(descriptor: int, size: int, cursor: int, lines: int, grep: str) -> LogChunk:
    found: list[str] = []
    position, rest = min(cursor, size), b""
    consumed = position
    while position < size and len(found) < lines and position - cursor < _MAX_GREP_BYTES:
        block = os.pread(descriptor, min(_LOG_BLOCK, size - position), position)
        if not block:
            break
        position += len(block)
        *pieces, rest = (rest + block).split(b"\n")
        for piece in pieces:
            if len(found) == lines:
                break
            consumed += len(piece) + 1
            if piece:
                line = _decode(piece)
                if grep in line:
                    found.append(line)
        if len(rest) > _LOG_BLOCK:  # a line without an end must not be read again and again
            consumed += len(rest)
            line = _decode(rest)
            if grep in line:
                found.append(line)
            rest = b""
    return LogChunk(found, consumed, size)
