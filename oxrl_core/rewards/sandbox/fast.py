"""The fast tier: an interpreter that offers a program nothing but Python, asked before the fork server.

    values = shared_interpreter().values(code, prelude, calls, memory_mib=512)

It speaks a part of Python, and is a tenth as dear as a process. What it says is an answer like any other, and compared
by the judge; where it gives none, or a wrong one, nothing follows: the fork server, which has the whole language,
decides. Its process (fast_server.py) can be killed at any moment, and is, when it does not answer.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from keyword import iskeyword
from pathlib import Path
from typing import Any, cast

from oxrl_core.rewards.sandbox import wire
from oxrl_core.rewards.sandbox.pool import ROOT, SPARE_USERS

SECONDS = 0.25  # of one text; what takes longer is no longer cheap
ANSWER_SECONDS = 1.0  # of a whole job; then the process is killed
START_SECONDS = 30.0
MOST_STARTS = 50  # of a process whose children keep dying: then it is off
MEMORY = 64 << 20  # of one session
PROCESS_MEMORY = 1 << 30  # address space of the process, and of each of its workers
MAX_ANSWER = (2 << 20) + 64  # of a message: a text of 1 MiB, with what JSON escapes in it
LAUNCH = "import sys; sys.path.insert(0, {root!r}); from oxrl_core.rewards.sandbox.fast_server import main; main({fd})"

CallWire = tuple[str, Any, Any]  # function, arguments and keywords, the latter as messages (wire.py)


def interpreter_version() -> str:
    """The version of the interpreter that is installed, or ""."""
    try:
        return version("pydantic-monty-client") if _binary() and find_spec("pydantic_monty") else ""
    except PackageNotFoundError:
        return ""


def _binary() -> str:
    """Where the interpreter's own program is, or ""."""
    scripts = os.pathsep.join([sysconfig.get_path("scripts"), str(Path(sys.executable).parent)])
    return shutil.which("monty", path=scripts) or ""


class FastTier:
    """The interpreter's process. It is started by the first job, and again after one that it did not survive."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None
        self.control: socket.socket | None = None
        self.problem = "" if interpreter_version() else "pydantic-monty is not installed"
        self.starts = 0
        self.held: dict[str, Any] = {}

    def describe(self) -> str:
        """The tier in words: version and what holds it, or why it is not used."""
        with self.lock:
            if self.process is None and not self.problem:
                self._start()
        if self.problem:
            return f"no interpreter ({self.problem})"
        walls = [name for name in ("landlock", "network") if self.held.get(name)]
        named = {"landlock": "Landlock", "network": "no network"}
        return f"monty {interpreter_version()} first ({', '.join([*map(named.__getitem__, walls), 'limits'])})"

    def values(self, code: str, prelude: str, calls: Sequence[CallWire], *, memory_mib: int) -> list[Any] | None:
        """What each call returned, as messages; None where the interpreter did not get through all of them."""
        targets = [_target(name) for name, _, _ in calls]
        if not all(targets):
            return None
        given = [[target, arguments, keywords] for target, (_, arguments, keywords) in zip(targets, calls, strict=True)]
        text = self._ask(["functions", prelude, code, given], memory_mib)
        try:
            answers: Any = json.loads(text or "", parse_float=_float, parse_constant=_float)
        except (ValueError, RecursionError):
            return None
        return cast("list[Any]", answers) if isinstance(answers, list) and len(answers) == len(calls) else None  # pyright: ignore[reportUnknownArgumentType]

    def prints(self, code: str, stdin: str, *, memory_mib: int) -> str | None:
        """What the program printed; None where the interpreter did not come to its end."""
        return self._ask(["program", code, stdin], memory_mib)

    def _ask(self, job: list[Any], memory_mib: int) -> str | None:
        with self.lock:
            if self.process is None and not self.problem:
                self._start()
            if self.problem or self.control is None:
                return None
            try:
                frame = wire.frame([*job, SECONDS, min(MEMORY, memory_mib << 20)])
                answer = self._exchange(frame, ANSWER_SECONDS)
            except (OSError, ValueError, RecursionError):
                self._end()  # it hangs, has died, or sends nonsense
                return None
        return answer[1] if answer[:1] == ["text"] and len(answer) == 2 and isinstance(answer[1], str) else None

    def _exchange(self, frame: bytes, seconds: float) -> list[Any]:
        """The answer to a message; OSError where none comes by then."""
        assert self.control is not None
        end = time.monotonic() + seconds
        self.control.settimeout(seconds)
        self.control.sendall(frame)
        data = bytearray()
        size = wire.HEADER
        while len(data) < size:
            self.control.settimeout(max(0.001, end - time.monotonic()))
            part = self.control.recv(1 << 16)
            if not part:
                raise ConnectionResetError("the interpreter's process has ended")
            data += part
            if len(data) >= wire.HEADER:
                size = wire.HEADER + int.from_bytes(data[: wire.HEADER], "little")
                if size > MAX_ANSWER:
                    raise ValueError("more than was asked for")
        answer: Any = json.loads(data[wire.HEADER :])
        return cast("list[Any]", answer) if isinstance(answer, list) else []

    def _start(self) -> None:
        self.starts += 1
        if self.starts > MOST_STARTS:
            self.problem = f"its process has ended {MOST_STARTS} times"
            return
        spec = find_spec("pydantic_monty")
        assert spec is not None and spec.origin is not None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        python = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
        with theirs:
            self.process = subprocess.Popen(
                [python, "-S", "-s", "-P", "-B", "-c", LAUNCH.format(root=ROOT, fd=theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # a worker's last words are a solution's doing
                env={"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"},
                cwd="/",
                start_new_session=True,
            )
        self.control = ours
        wanted = {
            "site": str(Path(spec.origin).parents[1]),
            "binary": _binary(),
            "user": SPARE_USERS[0] + os.getpid() % SPARE_USERS[1],
            "memory": PROCESS_MEMORY,
        }
        try:
            said: list[Any] = self._exchange(wire.frame(wanted), START_SECONDS)
        except (OSError, ValueError) as error:
            said = [f"{type(error).__name__}: {error}"]
        if said[:1] != ["ready"] or said[2] != "42\n":
            self._end()
            self.problem = f"it does not start: {said[0] if said else 'no answer'}"[:200]
            return
        self.held = cast("dict[str, Any]", said[1])

    def close(self) -> None:
        """Ends the process and its workers."""
        with self.lock:
            self._end()

    def _end(self) -> None:
        if self.control is not None:
            self.control.close()
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.kill()
            self.process.wait(timeout=10)
        self.control = self.process = None


def _target(name: str) -> str:
    """What to call for a function's name: `f`, or `Solution().f`; "" where it is no name."""
    parts = name.split(".")
    if len(parts) > 2 or any(not part.isidentifier() or iskeyword(part) for part in parts):
        return ""
    return name if len(parts) == 1 else f"{parts[0]}().{parts[1]}"


def _float(text: str) -> list[str]:
    return ["f", float(text).hex()]


_shared: FastTier | None = None
_shared_lock = threading.Lock()


def shared_interpreter() -> FastTier:
    """The fast tier of this process, made at the first call and ended with the process."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = FastTier()
            atexit.register(_shared.close)
        return _shared
