"""The supervisor of one run: what it does, from the start of the driver to the end of the last process.

It writes status.json with a heartbeat, says when the driver achieves nothing (stall_watch.py), ends the run on request
or when its budget is spent (budget.py), leaves no process behind, starts a driver that died again where that helps
(outcome.py) and says how it ended. It imports the standard library only: one is alive for every run.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from oxrl_core.errors import MachineError
from oxrl_core.runs import process
from oxrl_core.runs.clock import stamp
from oxrl_core.runs.launch import KILL_SECONDS, TERM_SECONDS
from oxrl_core.runs.logs import say_aside
from oxrl_core.runs.machine.disk import disk_error
from oxrl_core.runs.process import RUN_ID_VARIABLE, ProcessIdentity
from oxrl_core.runs.records import read_json, write_json
from oxrl_core.runs.rundir import RUN_FOLDER, Level, RunDir
from oxrl_core.runs.status import State
from oxrl_core.runs.supervision.budget import Budget
from oxrl_core.runs.supervision.outcome import (
    count_oom_kills,
    failure_of,
    start_failure,
    wait_before_restart,
    why_final,
)
from oxrl_core.runs.supervision.stall import own_progress
from oxrl_core.runs.supervision.stall_watch import StallWatch

_HEARTBEAT_SECONDS = 5.0
_YOUNG_HEARTBEAT_SECONDS = 2.0
_YOUNG_SECONDS = 60.0
_LEAVE_SECONDS = 3.0  # after a normal end Ray's processes leave by themselves within about this time
_LOG_TAIL_LINES = 20
_FINAL_WRITE_SECONDS = 60.0


def _only_wake_up(_signum: int, _frame: FrameType | None) -> None:
    """The wake-up pipe has already ended the sleep."""


class Supervisor:
    """One run from the start of its driver to the end of its last process."""

    def __init__(self, run: RunDir, record: dict[str, Any] | None = None, *, resumes: bool = False) -> None:
        """`record` is the status.json of a supervisor that died: this one goes on in its place.

        Where it `resumes`, the run had ended and nothing of it lives: the driver is started, not adopted.
        """
        self.run = run
        self.spec = run.spec()
        self.started = time.monotonic()
        self.driver = ProcessIdentity.from_dict((record or {}).get("driver"))
        self.driver_pid = 0
        self.driver_pidfd = -1  # of an adopted driver, which is nobody's child here
        self.driver_ended = False
        self.exit_code: int | None = None
        self.stop_reason = ""
        self.stop_grace = float(self.spec.get("stop_grace_seconds", 10.0))
        self.asked_to_leave_at: float | None = None
        self.was_killed = False
        self.oom_kills_before = count_oom_kills()
        self.heartbeat_due = 0.0
        self.budget = Budget.of(self.spec, record or {})
        self.stalls = StallWatch(run, self.spec, self._event)
        self.was_ended = False  # for standing still
        self.refusal: OSError | None = None  # by the disk, of the last heartbeat
        self.is_adopted = record is not None and not resumes
        self.is_going_on = resumes  # and nobody was told yet
        self.record: dict[str, Any] = {
            "state": "starting",
            "started_at": time.time(),
            "failures": [],
            **(record or {}),
            "supervisor": _own_identity().as_dict(),
        }
        earlier = ProcessIdentity.from_dict((record or {}).get("supervisor"))
        if earlier is not None and earlier.boot != process.boot_id():
            self.record["processes"] = []  # of another boot: whoever has those pids now is a stranger
        self._term_received = False
        self._progress: dict[str, Any] = {}
        self._progress_mark: tuple[int, int] | None = None
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
        words = self.spec.get("command") or _training_command(self.run)
        command = [str(word).replace(RUN_FOLDER, str(self.run.path)) for word in words]
        environment = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",  # the last lines before a SIGKILL are the ones that are needed
            "PYTHONFAULTHANDLER": "1",
        }
        # Last: programs that write a title over their environment begin at its front.
        environment[RUN_ID_VARIABLE] = self.run.run_id
        folder = str(self.spec.get("cwd") or ".")  # not there on a machine to which the run was moved
        (self.run.path / "error.json").unlink(missing_ok=True)
        self.record["attempt"] = stamp()
        with (self.run.logs / "driver.log").open("ab") as log:
            try:
                driver = subprocess.Popen(
                    command,
                    cwd=folder if Path(folder).is_dir() else None,
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
        self.driver_ended, self.exit_code, self.is_adopted = False, None, False
        self.record.update(driver=self.driver.as_dict() if self.driver else None, state="running", phase="")

    def adopt_driver(self) -> None:
        """Take over the driver of a supervisor that died: its end is seen through a pidfd, its exit code by nobody."""
        if not self.run.living_processes(self.record):
            self._event("warning", "revived", "all its processes were gone; it goes on from its last checkpoint")
            self.start_driver()
            return
        self._event("warning", "adopted", "its supervisor had died; another one has taken its place")
        self.driver_ended = True
        if self.driver is None:
            return
        try:
            self.driver_pidfd = os.pidfd_open(self.driver.pid)
        except OSError:
            return  # it has ended
        self.driver_ended = not process.is_alive(self.driver)  # compared after it was opened: the pid may be reused

    # ---------------------------------------------------------------- living

    def run_to_end(self, answer: int) -> None:
        """The whole life: start, supervise, clean up, last word. `answer` is the pipe on which the launcher waits."""
        try:
            self._save(durable=True)
            if self.is_adopted:
                self.adopt_driver()
            elif not (self.run.path / "stop.json").exists():
                self.start_driver()
            self._save(durable=True)
        except (MachineError, OSError) as error:
            failure = start_failure(error, self.run)
            self.record.update(state="failed", ended_at=time.time(), error=failure)
            self._save()  # before the launcher hears of it, who may look
            reply(answer, {"error": failure})
            self._event("error", "failed", failure["what"])
            self._write_final(self.clean_up())
            return
        reply(answer, {"ok": True})
        while True:
            if self.driver_pid or self.is_adopted:
                self.supervise()
            else:
                self._look_for_a_reason_to_stop()
            left = self.clean_up()
            if not self._goes_on(left):
                return

    def supervise(self) -> None:
        """Return when the driver has ended, or had its grace, or stands still, and must be ended."""
        while not self.driver_ended:
            self._look_for_a_reason_to_stop()
            if self.asked_to_leave_at is not None and time.monotonic() >= self.asked_to_leave_at + self.stop_grace:
                self.was_killed = True
                return
            if self.asked_to_leave_at is None:
                policy = self.stalls.look(self.progress(), self.record, self.members)
                if policy == "restart":
                    self.was_ended = True
                    return
                if policy == "stop":
                    self._begin_to_stop("error", "it stood still (run.on_stall: stop)")
            self.tick(1.0 if self.asked_to_leave_at is None else 0.1)

    def _look_for_a_reason_to_stop(self) -> None:
        request = read_json(self.run.path / "stop.json")
        if request is not None:
            # A second, more urgent request shortens the grace of the first.
            self.stop_grace = min(self.stop_grace, float(request.get("grace_seconds", self.stop_grace)))
            self._begin_to_stop("info", str(request.get("reason") or "asked to stop"))
        elif self._term_received:
            self._begin_to_stop("info", "the supervisor received SIGTERM")
        elif exceeded := self.budget.exceeded():
            self._begin_to_stop("warning", exceeded)

    def progress(self) -> dict[str, Any]:
        """The driver's record, read again where it has changed."""
        try:
            info = (self.run.path / "progress.json").stat()
        except OSError:
            return {}
        mark = (info.st_mtime_ns, info.st_ino)
        if mark != self._progress_mark:
            self._progress = read_json(self.run.path / "progress.json") or {}
            self._progress_mark = mark
        return self._progress

    def gpus(self) -> float:
        """The GPUs that the present driver holds, as it says."""
        return float(own_progress(self.progress(), self.record).get("gpus") or 0.0)

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
        watched = [self._wakeup_read, self.driver_pidfd] if self.driver_pidfd >= 0 else [self._wakeup_read]
        ready, _, _ = select.select(watched, [], [], seconds)
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
                self.driver_ended = True
        if self.driver_pidfd in ready:
            os.close(self.driver_pidfd)
            self.driver_pidfd, self.driver_ended = -1, True
        now = time.monotonic()
        self.stalls.tick()
        self.budget.count(self.gpus())
        if now >= self.heartbeat_due:
            young = now - self.started < _YOUNG_SECONDS
            self.heartbeat_due = now + (_YOUNG_HEARTBEAT_SECONDS if young else _HEARTBEAT_SECONDS)
            self._save()

    def members(self) -> list[ProcessIdentity]:
        """Every living process of the run but this one: all below it, and all that carry its id."""
        found = set(process.descendants([os.getpid()]))
        if self.is_adopted:  # what the supervisor before saw below itself has other parents now
            found.update(self.run.living_processes(self.record))
        else:
            found.update(process.members_by_run().get(self.run.run_id, []))
        return list(found)

    def _save(self, *, durable: bool = False) -> None:
        self.record["heartbeat"] = now = stamp()
        self.record["heartbeat_at"] = now["time"]
        self.record["spent"] = self.budget.as_dict(self.gpus())
        # For the day when this process is gone and its orphans have other parents.
        below = self.members() if self.is_adopted else process.descendants([os.getpid()])
        self.record["processes"] = [[identity.pid, identity.start] for identity in below]
        try:
            write_json(self.run.path / "status.json", self.record, durable=durable)
            if self.is_going_on:
                self.run.tell_going_on()
                self.is_going_on = False
            self.refusal = None
        except OSError as error:
            if durable:
                raise
            self.refusal = error
            say_aside(f"heartbeat not written: {error}")

    def _event(self, level: Level, code: str, message: str, **fields: Any) -> None:
        try:
            self.run.append_event(level, code, message, **fields)
        except OSError as error:
            say_aside(f"event {code} not written: {error}")

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

    def _goes_on(self, left: list[ProcessIdentity]) -> bool:
        """Whether the driver was started again. Else the last word is written: how it ended, and why."""
        self._save()  # whether the disk takes anything now may be why the driver ended
        self._end_log_line()
        state = self._final_state()
        tail = self.run.read_logs(lines=_LOG_TAIL_LINES).lines if state == "failed" else []
        error = self._failure(tail) if state == "failed" else None
        why = ""
        if error is not None:
            place = self._place()
            why = why_final(self.spec, error, place, self.record["failures"])
            self.record["failures"].append({"code": error["code"], "what": error["what"], "place": place} | stamp())
            if not why and not left:
                if self._starts_again(error):
                    return True
                state, error = self._final_state(), None
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
            self._event("error", "failed", error["what"], error_code=error["code"], final_because=why)
        else:
            self._event("info", state, f"{state}: {self.stop_reason}" if self.stop_reason else state)
        self._write_final(left)
        return False

    def _place(self) -> list[Any]:
        progress = own_progress(self.progress(), self.record)
        return [str(progress.get("phase", "")), int(progress.get("step") or 0)]

    def _starts_again(self, error: dict[str, str]) -> bool:
        """Whether the driver lives again; else somebody asked the run to stop while it waited, or it cannot start."""
        count = len(self.record["failures"])
        wait = wait_before_restart(count)
        message = f"{error['what']}; it starts again in {wait:g} s (restart {count} of {self.spec['max_restarts']})"
        self._event("warning", "restarting", message, cause=error["code"], restart=count, step=self._place()[1])
        self.record.update(state="starting", phase="restarting", driver=None, attempt=stamp())
        self.driver, self.driver_pid, self.was_killed, self.was_ended, self.is_adopted = None, 0, False, False, False
        self.stalls.stall = None
        self._save()
        start_at = time.monotonic() + wait
        while time.monotonic() < start_at:
            self._look_for_a_reason_to_stop()
            if self.asked_to_leave_at is not None:
                return False
            self.tick(0.2)
        self.oom_kills_before = count_oom_kills()
        try:
            self.start_driver()
        except (MachineError, OSError) as second:
            say_aside(f"not started again: {second}")
            self.run.write_error(start_failure(second, self.run))
            self.driver_ended, self.exit_code = True, 1
        self._save(durable=True)
        return True

    def _final_state(self) -> State:
        if self.asked_to_leave_at is not None:
            return "stopped"
        if self.was_ended:
            return "failed"
        progress = own_progress(self.progress(), self.record)
        said = str(progress.get("phase", ""))
        if self.exit_code in (0, None) and said == "needs_input":
            return "needs_input"
        if self.exit_code == 0 or (self.exit_code is None and said == "finished"):
            return "finished"
        if self.exit_code in (143, -signal.SIGTERM) or (self.exit_code is None and said == "stopped"):
            reason = progress.get("reason") if said == "stopped" else ""
            self.stop_reason = str(reason or "the driver received SIGTERM from outside oxRL")
            return "stopped"
        return "failed"

    def _failure(self, tail: list[str]) -> dict[str, str]:
        if self.was_ended:
            return self.stalls.failure()
        code = self.exit_code
        if code is None and not self.is_adopted:
            code = -signal.SIGKILL
        failure = failure_of(self.run, code, tail, count_oom_kills() - self.oom_kills_before)
        if failure["code"] == "Exited" and self.refusal is not None:  # its last words had no room either
            failure = disk_error(self.refusal, self.run.path, f"then oxrl run resume {self.run.run_id}").as_dict()
        return failure

    def _end_log_line(self) -> None:
        try:
            self.run.end_log_line()
        except OSError as error:
            say_aside(f"log not completed: {error}")

    def _write_final(self, left: list[ProcessIdentity]) -> None:
        """A disk that is full now may have room in a moment: the last word is worth a minute."""
        self.record["leftovers"] = [identity.pid for identity in left]
        if left:
            self._event("error", "leftovers", f"processes that could not be ended: {self.record['leftovers']}")
        deadline = time.monotonic() + _FINAL_WRITE_SECONDS
        self.record["heartbeat"] = stamp()
        self.record["heartbeat_at"] = time.time()
        self.record["spent"] = self.budget.as_dict(0.0)
        self.record["processes"] = []
        while True:
            try:
                write_json(self.run.path / "status.json", self.record, durable=True)
                return
            except OSError as error:
                say_aside(f"final status not written: {error}")
                if time.monotonic() > deadline:
                    raise
                time.sleep(1.0)


def reply(answer: int, message: dict[str, Any]) -> None:
    """Tell the launcher, who waits for one line of JSON, and let it go."""
    with suppress(BrokenPipeError):  # the launcher is gone, which is exactly what a run must survive
        os.write(answer, json.dumps(message).encode() + b"\n")
    os.close(answer)


def _training_command(run: RunDir) -> list[str]:
    return [sys.executable, "-m", "oxrl_core.driver", "--run-dir", str(run.path)]


def _own_identity() -> ProcessIdentity:
    identity = process.identify(os.getpid())
    assert identity is not None  # a process can always see itself
    return identity
