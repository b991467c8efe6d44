"""The judge's side of the sandbox: one fork server per process, and executions that end by their deadline.

    with shared_sandbox().solution(code, deadline=Deadline(4.0)) as solution:
        answer = solution.call("add", [1, 2], {})

A solution gives answers, never verdicts: whoever calls compares them with what it alone knows.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from oxrl_core.errors import RewardError
from oxrl_core.rewards.sandbox import level as levels
from oxrl_core.rewards.sandbox import wire
from oxrl_core.rewards.sandbox.level import Level

ROOT = str(Path(__file__).parents[3])  # what holds the package: the fork server imports its own half from there
START_SECONDS = 60.0
CONTROL_SECONDS = 10.0  # the fork server forks in milliseconds; a machine under load may take longer
MAX_MESSAGE = 1 << 20
MAX_JOB_BYTES = 16 << 20
MAX_OUTPUT = 4 << 20  # of a program
SPARE_USERS = (61184, 4000)  # user numbers that no system gives away (systemd's own list): a root judge takes one
LAUNCH = "import sys; sys.path.insert(0, {root!r}); from oxrl_core.rewards.sandbox.zygote import main; main({fd})"

Kind = Literal["functions", "program", "tests"]
Ending = Literal["timeout", "died", "flooded"]


class Stopped(Exception):
    """An execution that has no answer: past its deadline, dead, or sending more than anybody asked for."""

    def __init__(self, why: Ending) -> None:
        super().__init__(why)
        self.why: Ending = why


class Deadline:
    """A moment by which everything of one completion has ended."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds until then; raises Stopped where there are none."""
        seconds = self.end - time.monotonic()
        if seconds <= 0:
            raise Stopped("timeout")
        return seconds


@dataclass(frozen=True)
class ProgramResult:
    """What a program wrote, and how it ended: its exit code, negative for a signal."""

    output: bytes
    exit_code: int


class Execution:
    """One child, and the channel to it."""

    def __init__(self, channel: socket.socket, pid: int, deadline: Deadline) -> None:
        self.channel = channel
        self.pid = pid
        self.deadline = deadline
        self.buffer = bytearray()

    def send(self, data: bytes) -> None:
        """Sends a whole frame."""
        self.channel.settimeout(self.deadline.left())
        try:
            self.channel.sendall(data)
        except TimeoutError:
            raise Stopped("timeout") from None
        except OSError:
            raise Stopped("died") from None

    def receive(self) -> bytes:
        """The content of the next frame."""
        size = int.from_bytes(self._receive_exactly(wire.HEADER), "little")
        if size > MAX_MESSAGE:
            raise Stopped("flooded")
        return self._receive_exactly(size)

    def _receive_exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            part = self._read()
            if not part:
                raise Stopped("died")
            self.buffer += part
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data

    def _read(self) -> bytes:
        self.channel.settimeout(self.deadline.left())
        try:
            return self.channel.recv(1 << 16)
        except TimeoutError:
            raise Stopped("timeout") from None
        except OSError:
            return b""

    def receive_all(self, most: int) -> bytes:
        """Everything until the other side closes."""
        while part := self._read():
            self.buffer += part
            if len(self.buffer) > most:
                raise Stopped("flooded")
        return bytes(self.buffer)

    def receive_message(self) -> list[Any]:
        """The next frame as a list: ["error", ...] where it is none."""
        try:
            message: Any = json.loads(self.receive())
        except (ValueError, RecursionError):
            return ["error", "no message", ""]
        return cast("list[Any]", message) if isinstance(message, list) and message else ["error", "no message", ""]

    def call(self, function: str, arguments: Sequence[Any], keywords: dict[str, Any]) -> list[Any]:
        """["value", wire] or ["error", type, text]; NotPlain where an argument cannot be a message."""
        encoded = [wire.encode(list(arguments), strict=True), wire.encode(keywords, strict=True)]
        self.send(wire.frame([function, *encoded]))
        return self.receive_message()


class Sandbox:
    """A fork server and the executions in it. Its processes end with it, and with the process that made it."""

    def __init__(self, *, namespaces: bool = True) -> None:
        self.namespaces = namespaces  # False: not even tried
        self.lock = threading.RLock()
        self.process: subprocess.Popen[bytes] | None = None
        self.control: socket.socket | None = None
        self.known: Level | None = None

    @property
    def level(self) -> Level:
        """What holds the executions here; the fork server is started to find out."""
        with self.lock:
            if self.known is None:
                self._start()
            assert self.known is not None
            return self.known

    @contextmanager
    def solution(
        self, code: str, *, deadline: Deadline, prelude: str = "", memory_mib: int = 512
    ) -> Generator[tuple[Execution, list[Any]]]:
        """A child that has run the code, and what it said to it: ["ready"] or ["error", type, text]."""
        with self._execution("functions", deadline, memory_mib) as execution:
            execution.send(wire.frame({"code": code, "prelude": prelude}))
            yield execution, execution.receive_message()

    def run_program(self, code: str, stdin: str, *, deadline: Deadline, memory_mib: int = 512) -> ProgramResult:
        """What the program wrote to its standard output, given that standard input."""
        job = wire.frame({"code": code, "stdin": stdin})
        statuses: list[int] = []
        with self._execution("program", deadline, memory_mib, statuses, len(job)) as execution:
            execution.send(job)
            execution.channel.shutdown(socket.SHUT_WR)  # its standard output is this socket: reading it finds the end
            output = execution.receive_all(MAX_OUTPUT)
            self._wait(execution)
        return ProgramResult(output, os.waitstatus_to_exitcode(statuses[0]))

    def run_tests(
        self,
        prelude: str,
        tests: Sequence[str],
        functions: Sequence[str],
        solution: Execution,
        *,
        memory_mib: int = 512,
    ) -> list[Any]:
        """What the test code says: ["verdicts", one bool per test, what is wrong with the tests or ""].

        It runs in a child of its own; each function is a message to the solution's child. Here both are opaque bytes.
        """
        with self._execution("tests", solution.deadline, memory_mib) as judge:
            judge.send(wire.frame({"prelude": prelude, "tests": list(tests), "functions": list(functions)}))
            while True:
                message = judge.receive_message()
                if message[0] != "call":
                    return message
                solution.send(wire.frame(message[1:]))
                answer = solution.receive()
                judge.send(len(answer).to_bytes(wire.HEADER, "little") + answer)

    # ---- the fork server ----

    @contextmanager
    def _execution(
        self,
        kind: Kind,
        deadline: Deadline,
        memory_mib: int,
        statuses: list[int] | None = None,
        job_bytes: int = 0,
    ) -> Generator[Execution]:
        with self.lock:
            levels.require(self.level)
            if self.control is None:
                self._start()
            execution = self._fork(kind, deadline, memory_mib, job_bytes)
            try:
                yield execution
            finally:
                execution.channel.close()
                status = self._end(execution.pid)
                if statuses is not None:
                    statuses.append(status)

    def _fork(self, kind: Kind, deadline: Deadline, memory_mib: int, job_bytes: int) -> Execution:
        limits = {
            "cpu": int(deadline.seconds) + 2,  # a second line of defence: the deadline is the judge's
            "as": memory_mib << 20,
            "fsize": max(4 << 20, job_bytes),  # the standard input of a program is a file in memory
            "nofile": 32,
            "core": 0,
            "nproc": 64,
            "memlock": 0,
            "msgqueue": 0,
        }
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        assert self.control is not None
        try:
            with theirs:
                request = json.dumps(["fork", kind, limits]).encode()
                socket.send_fds(self.control, [request], [theirs.fileno()])
            pid = self._answer("forked")[1]
        except OSError as error:
            ours.close()
            raise self._broken(f"{type(error).__name__}: {error}") from error
        try:
            said = Execution(ours, pid, Deadline(CONTROL_SECONDS)).receive_message()
        except Stopped as stopped:
            said = [stopped.why]
        if said != ["locked"]:  # said before the job is read: a solution can neither cause nor imitate it
            raise self._broken("a child could not be locked down")
        return Execution(ours, pid, deadline)

    def _end(self, pid: int) -> int:
        """The wait status of a child that is dead now, whatever it was doing."""
        if self.control is None:
            return 0  # the fork server has ended, and its children with it
        try:
            self.control.send(json.dumps(["end", pid]).encode())
            return int(self._answer("ended")[1])
        except OSError as error:
            raise self._broken(f"{type(error).__name__}: {error}") from error

    def _wait(self, execution: Execution) -> None:
        """Returns once the process that has closed its channel has had a moment to end by itself."""
        execution.channel.close()
        assert self.control is not None
        self.control.send(json.dumps(["wait", execution.pid]).encode())
        self._answer("waited")

    def _answer(self, kind: str) -> list[Any]:
        assert self.control is not None
        self.control.settimeout(CONTROL_SECONDS)
        data = self.control.recv(1 << 16)
        if not data:
            raise ConnectionResetError("the fork server has ended")
        message = cast("list[Any]", json.loads(data))
        if message[0] != kind:
            raise ConnectionResetError(f"the fork server said {message[0]} instead of {kind}")
        return message

    def _broken(self, why: str) -> RewardError:
        """The error that says so; the fork server is gone then."""
        self.close()
        return RewardError(
            f"the sandbox's fork server does not answer: {why}",
            where="the code reward's sandbox",
            next_step="see the log; the next execution starts a new one",
        )

    def _start(self) -> None:
        self.close()
        wanted = self.namespaces
        told = self._launch(wanted)
        if wanted and told[0] == "failed":  # half-way into the namespaces: another one, without them
            why = str(told[1])
            told = self._launch(False)
            if told[0] == "ready":
                told[1]["problems"]["namespaces"] = why
        if told[0] != "ready":
            raise self._broken(str(told[1]))
        self.known = levels.level_of(told[1])
        if self.known.name != "none":
            self._test_itself()

    def _launch(self, namespaces: bool) -> list[Any]:
        self.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        python = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
        with theirs:
            self.process = subprocess.Popen(
                # -S -s -P: no site, no user folder, no working directory; PYTHONHASHSEED: the same order every time.
                [python, "-S", "-s", "-P", "-B", "-c", LAUNCH.format(root=ROOT, fd=theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"},
                cwd="/",
                start_new_session=True,  # Ctrl-C is for the run; this one ends with its judge
            )
        self.control = ours
        user = SPARE_USERS[0] + os.getpid() % SPARE_USERS[1] if os.geteuid() == 0 else os.geteuid()
        group = user if os.geteuid() == 0 else os.getegid()
        ours.settimeout(START_SECONDS)
        try:
            ours.send(json.dumps({"namespaces": namespaces, "user": user}).encode())
            message: list[Any] = json.loads(ours.recv(1 << 16) or b'["failed", "it ended at once"]')
            if message[0] == "unshared":
                if message[1] == 0:
                    ours.send(json.dumps(self._map_user(user, group)).encode())
                message = json.loads(ours.recv(1 << 16) or b'["failed", "it ended while it made its namespaces"]')
        except OSError as error:
            return ["failed", f"{type(error).__name__}: {error}"]
        return message

    def _map_user(self, user: int, group: int) -> list[str]:
        """Makes the fork server's user 0 that user outside: written here, because only outside one may choose it."""
        assert self.process is not None
        folder = Path(f"/proc/{self.process.pid}")
        try:
            if os.geteuid() != 0:
                (folder / "setgroups").write_text("deny")
            (folder / "uid_map").write_text(f"0 {user} 1")
            (folder / "gid_map").write_text(f"0 {group} 1")
        except OSError as error:
            return ["not mapped", f"{error.strerror}"]
        return ["mapped", ""]

    def _test_itself(self) -> None:
        """Raises where a solution could do what it must not."""
        try:
            with self.solution(levels.SELF_TEST, deadline=Deadline(CONTROL_SECONDS)) as (execution, said):
                answer = execution.call("attempts", [__file__], {}) if said[0] == "ready" else said
        except Stopped as stopped:
            answer = ["error", "Stopped", stopped.why]
        if answer[0] != "value" or not wire.matches(answer[1], []):
            self.close()
            raise RewardError(
                f"the sandbox does not hold: its own test gave {answer[1:]}",
                where=str(self.known),
                next_step="run `oxrl doctor`, and report it: code of models is not run like this",
            )

    def close(self) -> None:
        """Ends the fork server and every child."""
        with self.lock:
            if self.control is not None:
                self.control.close()
            if self.process is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(timeout=CONTROL_SECONDS)
            self.control = self.process = None


_shared: Sandbox | None = None
_shared_lock = threading.Lock()


def shared_sandbox() -> Sandbox:
    """The sandbox of this process, made at the first call and ended with the process."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = Sandbox()
            atexit.register(_shared.close)
        return _shared
