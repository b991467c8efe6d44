"""The supervisor of one run: `python -m oxrl_core.runs.supervise RUN_DIR`.

It detaches from its launcher, starts the driver in a session of its own, adopts every orphan below it (subreaper),
writes status.json with a heartbeat, ends the run on request or when its budget is spent, leaves no process behind and
says how it ended. It imports the standard library only: one is alive for every run.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from oxrl_core.errors import DeadlineError, MachineError
from oxrl_core.runs import process
from oxrl_core.runs.launch import KILL_SECONDS, TERM_SECONDS
from oxrl_core.runs.process import RUN_ID_VARIABLE, ProcessIdentity
from oxrl_core.runs.records import read_json, write_json
from oxrl_core.runs.rundir import Level, RunDir
from oxrl_core.runs.status import State, read_error

_PR_SET_CHILD_SUBREAPER = 36
_HEARTBEAT_SECONDS = 5.0
_YOUNG_HEARTBEAT_SECONDS = 2.0
_YOUNG_SECONDS = 60.0
_LEAVE_SECONDS = 3.0  # after a normal end Ray's processes leave by themselves within about this time
_LOG_TAIL_LINES = 20
_FINAL_WRITE_SECONDS = 60.0
_SIGNAL_HINTS: dict[int, str] = {
    signal.SIGSEGV: "a native library crashed; the last lines of the log may hold its stack",
    signal.SIGBUS: "often a full /dev/shm or a file that shrank under a memory map",
    signal.SIGABRT: "a native library gave up; the last lines of the log say why",
    signal.SIGILL: "a binary was built for another processor",
}


def _only_wake_up(_signum: int, _frame: FrameType | None) -> None:
    """The wake-up pipe has already ended the sleep."""


def _set_subreaper() -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")


def _count_oom_kills() -> int:
    """Processes that the kernel has killed on this machine for want of memory since it booted."""
    try:
        with Path("/proc/vmstat").open(encoding="ascii") as file:
            for line in file:
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    except OSError:
        return 0  # a kernel that does not tell
    return 0


class Supervisor:
    """One run from the start of its driver to the end of its last process."""

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self.spec = run.spec()
        self.started = time.monotonic()
        self.driver: ProcessIdentity | None = None
        self.driver_pid = 0
        self.exit_code: int | None = None
        self.stop_reason = ""
        self.stop_grace = float(self.spec.get("stop_grace_seconds", 10.0))
        self.asked_to_leave_at: float | None = None
        self.was_killed = False
        self.oom_kills_before = _count_oom_kills()
        self.heartbeat_due = 0.0
        self.record: dict[str, Any] = {
            "state": "starting",
            "supervisor": _own_identity().as_dict(),
            "started_at": time.time(),
            "heartbeat_at": time.time(),
        }
        self._term_received = False
        self._wakeup_read, wakeup_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # Caught, not ignored: exec gives the driver the defaults back, while ignored signals would stay ignored.
        for signum in (signal.SIGHUP, signal.SIGINT, signal.SIGCHLD):
            signal.signal(signum, _only_wake_up)
        signal.signal(signal.SIGTERM, self._on_term)
        signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)

    def _on_term(self, _signum: int, _frame: FrameType | None) -> None:
        self._term_received = True

    # ---------------------------------------------------------------- starting

    def start_driver(self) -> None:
        """Start the driver in a session of its own, its output in logs/driver.log."""
        command = [str(word) for word in self.spec.get("command") or _training_command(self.run)]
        environment = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",  # the last lines before a SIGKILL are the ones that are needed
            "PYTHONFAULTHANDLER": "1",
        }
        # Last: programs that write a title over their environment begin at its front.
        environment[RUN_ID_VARIABLE] = self.run.run_id
        (self.run.path / "error.json").unlink(missing_ok=True)
        with (self.run.logs / "driver.log").open("ab") as log:
            try:
                driver = subprocess.Popen(
                    command,
                    cwd=self.spec.get("cwd") or None,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise MachineError(
                    f"the driver cannot be started: {error.strerror or error}",
                    str(error.filename or command[0]),
                    "oxrl doctor",
                ) from error
        self.driver_pid = driver.pid
        driver.returncode = 0  # it is reaped here with all others; its own object must not wait for it
        self.driver = process.identify(driver.pid)
        self.record["driver"] = self.driver.as_dict() if self.driver else None
        self.record["state"] = "running"

    # ---------------------------------------------------------------- living

    def run_to_end(self, answer: int) -> None:
        """The whole life: start, supervise, clean up, last word. `answer` is the pipe on which the launcher waits."""
        try:
            self._save(durable=True)
            if not (self.run.path / "stop.json").exists():
                self.start_driver()
                self._save(durable=True)
        except (MachineError, OSError) as error:
            failure = _start_failure(error, self.run)
            self.record.update(state="failed", ended_at=time.time(), error=failure)
            self._save()  # before the launcher hears of it, who may look
            _reply(answer, {"error": failure})
            self._event("error", "failed", failure["what"])
            self._write_final(self.clean_up())
            return
        _reply(answer, {"ok": True})
        if self.driver_pid:
            self.supervise()
        else:
            self._look_for_a_reason_to_stop()
        self.finish(self.clean_up())

    def supervise(self) -> None:
        """Return when the driver has ended, or had its grace and must be ended."""
        while self.exit_code is None:
            self._look_for_a_reason_to_stop()
            if self.asked_to_leave_at is not None and time.monotonic() >= self.asked_to_leave_at + self.stop_grace:
                self.was_killed = True
                return
            self.tick(1.0 if self.asked_to_leave_at is None else 0.1)

    def _look_for_a_reason_to_stop(self) -> None:
        request = read_json(self.run.path / "stop.json")
        max_hours = self.spec.get("max_hours")
        if request is not None:
            # A second, more urgent request shortens the grace of the first.
            self.stop_grace = min(self.stop_grace, float(request.get("grace_seconds", self.stop_grace)))
            self._begin_to_stop("info", str(request.get("reason") or "asked to stop"))
        elif self._term_received:
            self._begin_to_stop("info", "the supervisor received SIGTERM")
        elif max_hours is not None and time.monotonic() - self.started > float(max_hours) * 3600:
            self._begin_to_stop("warning", f"its budget of {max_hours:g} hours (run.max_hours) is spent")

    def _begin_to_stop(self, level: Level, reason: str) -> None:
        if self.asked_to_leave_at is not None:
            return
        self.asked_to_leave_at = time.monotonic()
        self.stop_reason = reason
        self.record.update(state="stopping", stop_reason=reason)
        if self.driver is not None:
            process.send_signal(self.driver, signal.SIGTERM)
        self._save()
        self._event(level, "stopping", f"stopping: {reason}")

    def tick(self, seconds: float = 0.05) -> None:
        """Sleep until a signal or for so long, then bury the dead and beat if a beat is due."""
        select.select([self._wakeup_read], [], [], seconds)
        with suppress(BlockingIOError):  # no signal came
            os.read(self._wakeup_read, 4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == self.driver_pid:
                self.exit_code = os.waitstatus_to_exitcode(status)
        now = time.monotonic()
        if now >= self.heartbeat_due:
            young = now - self.started < _YOUNG_SECONDS
            self.heartbeat_due = now + (_YOUNG_HEARTBEAT_SECONDS if young else _HEARTBEAT_SECONDS)
            self._save()

    def members(self) -> list[ProcessIdentity]:
        """Every living process of the run but this one: all below it, and all that carry its id."""
        found = set(process.descendants([os.getpid()]))
        found.update(process.members_by_run().get(self.run.run_id, []))
        return list(found)

    def _save(self, *, durable: bool = False) -> None:
        self.record["heartbeat_at"] = time.time()
        # For the day when this process is gone and its orphans have other parents.
        self.record["processes"] = [[identity.pid, identity.start] for identity in process.descendants([os.getpid()])]
        try:
            write_json(self.run.path / "status.json", self.record, durable=durable)
        except OSError as error:
            if durable:
                raise
            print(f"{_now()} heartbeat not written: {error}", file=sys.stderr, flush=True)

    def _event(self, level: Level, code: str, message: str, **fields: Any) -> None:
        try:
            self.run.append_event(level, code, message, **fields)
        except OSError as error:
            print(f"{_now()} event {code} not written: {error}", file=sys.stderr, flush=True)

    # ---------------------------------------------------------------- ending

    def clean_up(self) -> list[ProcessIdentity]:
        """End what the driver left behind; what cannot be ended is returned."""
        if self.asked_to_leave_at is None:
            leave_until = time.monotonic() + _LEAVE_SECONDS
            while time.monotonic() < leave_until and self.members():
                self.tick()
        left = process.end_processes(self.members, term_seconds=TERM_SECONDS, kill_seconds=KILL_SECONDS, tick=self.tick)
        self.tick(0.0)  # the driver's own exit code, where it had to be killed
        return left

    def finish(self, left: list[ProcessIdentity]) -> None:
        """Write the last word: how it ended, and why."""
        self._end_log_line()
        state = self._final_state()
        tail = self.run.read_logs(lines=_LOG_TAIL_LINES).lines if state == "failed" else []
        error = self._failure(tail) if state == "failed" else None
        self.record.update(
            state=state,
            ended_at=time.time(),
            exit_code=self.exit_code,
            error=error,
            log_tail=tail,
            stop_reason=self.stop_reason,
        )
        if self.was_killed:
            self._event("warning", "killed", f"the driver did not leave within {self.stop_grace:g} s and was killed")
        if error is not None:
            self._event("error", "failed", error["what"], error_code=error["code"])
        else:
            self._event("info", state, f"{state}: {self.stop_reason}" if self.stop_reason else state)
        self._write_final(left)

    def _final_state(self) -> State:
        if self.asked_to_leave_at is not None:
            return "stopped"
        if self.exit_code == 0:
            return "finished"
        if self.exit_code in (143, -signal.SIGTERM):
            self.stop_reason = "the driver received SIGTERM from outside oxRL"
            return "stopped"
        return "failed"

    def _failure(self, tail: list[str]) -> dict[str, str]:
        said = read_error(self.run.path)
        if said is not None:
            return said
        code = self.exit_code if self.exit_code is not None else -signal.SIGKILL
        log, see = str(self.run.logs / "driver.log"), f"oxrl run logs {self.run.run_id}"
        number = -code if code < 0 else code - 128 if 128 < code < 128 + signal.NSIG else 0
        if number == signal.SIGKILL:
            oom_kills = _count_oom_kills() - self.oom_kills_before
            evidence = (
                f"the kernel killed {oom_kills} processes of this machine for want of memory during the run"
                if oom_kills > 0
                else "the kernel reports no kill for want of memory; a container's limit or a person is possible"
            )
            return {
                "code": "Killed",
                "what": f"the driver was killed by SIGKILL (out of memory?): {evidence}",
                "where": log,
                "next": "if it was memory: smaller train.micro_batch_tokens, rollout.cpu_kv_cache_gib or model",
            }
        if number:
            name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
            return {
                "code": "Crashed",
                "what": f"the driver was ended by {name}: {_SIGNAL_HINTS.get(number, 'see its log')}",
                "where": log,
                "next": see,
            }
        last = _last_words(tail)
        return {
            "code": "Exited",
            "what": f"the driver exited with code {code}; {f'its last words: {last}' if last else 'it said nothing'}",
            "where": log,
            "next": see,
        }

    def _end_log_line(self) -> None:
        try:
            self.run.end_log_line()
        except OSError as error:
            print(f"{_now()} log not completed: {error}", file=sys.stderr, flush=True)

    def _write_final(self, left: list[ProcessIdentity]) -> None:
        """A disk that is full now may have room in a moment: the last word is worth a minute."""
        self.record["leftovers"] = [identity.pid for identity in left]
        if left:
            self._event("error", "leftovers", f"processes that could not be ended: {self.record['leftovers']}")
        deadline = time.monotonic() + _FINAL_WRITE_SECONDS
        self.record["heartbeat_at"] = time.time()
        self.record["processes"] = []
        while True:
            try:
                write_json(self.run.path / "status.json", self.record, durable=True)
                return
            except OSError as error:
                print(f"{_now()} final status not written: {error}", file=sys.stderr, flush=True)
                if time.monotonic() > deadline:
                    raise
                time.sleep(1.0)


def _last_words(tail: list[str]) -> str:
    """The line of the log that most likely says why: an exception's, else the last one."""
    for line in reversed(tail):
        if re.match(r"^(?:\w+\.)*\w*(?:Error|Exception|Failure|Interrupt|Exit)\b.*", line):
            return line
    return next((line for line in reversed(tail) if line.strip()), "")


def _training_command(run: RunDir) -> list[str]:
    return [sys.executable, "-m", "oxrl_core.driver", "--run-dir", str(run.path)]


def _own_identity() -> ProcessIdentity:
    identity = process.identify(os.getpid())
    assert identity is not None  # a process can always see itself
    return identity


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def supervise(run: RunDir, answer: int) -> None:
    """Supervise the run to its end. `answer` is the pipe on which the launcher waits for one line of JSON."""
    try:
        with run.lock(1.0):
            if (run.path / "status.json").exists():
                _reply(answer, {"ok": True})  # it was launched, or stopped, before
            else:
                Supervisor(run).run_to_end(answer)
    except DeadlineError:
        _reply(answer, {"ok": True})  # another supervisor holds this run


def _start_failure(error: MachineError | OSError, run: RunDir) -> dict[str, str]:
    if isinstance(error, MachineError):
        return error.as_dict()
    return MachineError(
        f"the run cannot be started: {error.strerror or error}", str(error.filename or run.path), "oxrl doctor"
    ).as_dict()


def _reply(answer: int, message: dict[str, Any]) -> None:
    with suppress(BrokenPipeError):  # the launcher is gone, which is exactly what a run must survive
        os.write(answer, json.dumps(message).encode() + b"\n")
    os.close(answer)


def main() -> None:
    """Fork off: the caller waits for one line of JSON, the child is the supervisor and nobody's child."""
    run = RunDir(sys.argv[1])
    read_end, write_end = os.pipe()
    if os.fork() != 0:
        os.close(write_end)
        message = b""
        while block := os.read(read_end, 65536):
            message += block
        with suppress(BrokenPipeError):  # the launcher is gone; the run goes on
            os.write(1, message)
        os._exit(0)
    os.close(read_end)
    os.setsid()
    # The launcher waits for the end of fd 1: nothing of it may stay open here. fd 2 is logs/supervisor.log.
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    _set_subreaper()
    supervise(run, write_end)


if __name__ == "__main__":
    main()
