"""The process that the fast tier's interpreter lives in, started by fast.py. It holds no secret and no expected value.

Monty is an interpreter of Python written in Rust: a solution has no system calls to make, only what the interpreter
offers it. Its own workers run the text; this process starts them, so what is locked here is locked there too: no
environment, a user of its own where the judge is root, no files (Landlock), no network, little memory. And what a
solution hands over costs at most this process, which the judge kills: three nested lists of a thousand references each
are a few kilobytes in Monty, and gigabytes where they are unfolded. So no value leaves it but text.

Jobs: ["functions", prelude, code, calls, seconds, memory] -> ["text", the answers as JSON]
      ["program", code, stdin, seconds, memory]            -> ["text", what it printed]
both -> ["no", why] where the interpreter did not get through, which says nothing about the solution.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from oxrl_core.rewards.sandbox import locks, wire
from oxrl_core.rewards.sandbox.zygote import readable

MAX_TEXT = 1 << 20  # of an answer
MAX_JOB = 16 << 20
TURN_SECONDS = 0.5  # then a worker that does not listen to its own limits is killed
SESSIONS_PER_WORKER = 1000
END = "\n__end__ = None\n"  # the value of a text's last expression would be handed over whole

# Stands behind a solution, in Monty's part of Python. A solution that breaks it gives other answers, as it can without.
ANSWERS = f"""
import json as __json, sys as __sys
def __encode(value, depth=0):
    if depth > {wire.MAX_DEPTH}: raise ValueError('deep')
    if value is None or isinstance(value, (bool, str, float)): return value
    if isinstance(value, int): return value if -{wire.EXACT} < value < {wire.EXACT} else ['i', hex(value)]
    if isinstance(value, bytes): return ['b', value.hex()]
    if isinstance(value, list): return ['l', [__encode(item, depth + 1) for item in value]]
    if isinstance(value, tuple): return ['t', [__encode(item, depth + 1) for item in value]]
    if isinstance(value, (set, frozenset)): return ['s', [__encode(item, depth + 1) for item in value]]
    if isinstance(value, dict):
        return ['d', [[__encode(key, depth + 1), __encode(value[key], depth + 1)] for key in value]]
    raise TypeError('no plain value')
__answers = []
"""
INPUT = """
def input(prompt=''):
    print(prompt, end='')
    if not __lines: raise EOFError('EOF when reading a line')
    return __lines.pop(0)
"""


def main(control_fd: int) -> None:
    """Serves until the judge closes the socket."""
    control = socket.socket(fileno=control_fd)
    os.environ.clear()
    wanted = _receive(control)
    sys.path.append(wanted["site"])
    monty = import_module("pydantic_monty")
    sys.path.remove(wanted["site"])
    held = _lock(wanted)
    pool = monty.Monty(
        binary_path=wanted["binary"],
        min_processes=1,
        max_processes=1,
        request_timeout=TURN_SECONDS,
        checkout_timeout=TURN_SECONDS,
        max_checkouts_per_worker=SESSIONS_PER_WORKER,
        feed_duration_limit_grace=0.1,
        turn_duration_limit_grace=0.1,
    )
    with pool:
        interpreter = Interpreter(monty, pool)
        control.sendall(wire.frame(["ready", held, interpreter.program("print(6 * 7)", "", 1.0, 1 << 26)]))
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                kind, *job = _receive(control)
                work: Callable[..., str] = interpreter.functions if kind == "functions" else interpreter.program
                try:
                    answer = ["text", work(*job)]
                except Exception as error:  # whatever the interpreter or its pool raises: the other tier decides
                    answer = ["no", f"{type(error).__name__}: {error}"[:200]]
                control.sendall(wire.frame(answer))


class Interpreter:
    """Monty with its workers. Each job has a session that no other has used."""

    def __init__(self, monty: Any, pool: Any) -> None:
        self.monty = monty
        self.pool = pool

    def functions(self, prelude: str, code: str, calls: list[list[Any]], seconds: float, memory: int) -> str:
        """The JSON of what the calls returned; raises where one raised."""
        given = [[wire.decode(arguments), wire.decode(keywords)] for _, arguments, keywords in calls]
        lines = [
            f"__answers.append(__encode({target}(*__calls[{place}][0], **__calls[{place}][1])))"
            for place, (target, _, _) in enumerate(calls)
        ]
        # A solution may print: its answers go where solutions seldom do, and what is printed there too spoils them.
        text = "\n".join([prelude, code, ANSWERS, *lines, "print(__json.dumps(__answers), file=__sys.stderr)", END])
        return self._run(text, {"__calls": given}, seconds, memory, "stderr")

    def program(self, code: str, stdin: str, seconds: float, memory: int) -> str:
        """What the program wrote to its standard output; raises where it did not come to its end."""
        return self._run(INPUT + code + END, {"__lines": stdin.splitlines()}, seconds, memory, "stdout")

    def _run(self, text: str, inputs: dict[str, Any], seconds: float, memory: int, stream: str) -> str:
        """What the text wrote to that stream."""
        limits = {
            "max_feed_duration_secs": seconds,
            "max_turn_duration_secs": seconds,
            "max_memory": memory,
            "max_total_sleep_secs": 0,  # sleeping counts as no execution: without this, ten seconds of it would
            "max_suspensions": 20,  # there is nobody to ask: files, clocks of the host, functions of the host
        }
        written = self.monty.CollectStreams(MAX_TEXT)
        with self.pool.checkout(limits=limits, assert_message_annotations=False) as session:
            session.feed_run(text, inputs=inputs, print_callback=written)
        return "".join(part for name, part in written.output if name == stream)


def _lock(wanted: dict[str, Any]) -> dict[str, Any]:
    """What could be taken from this process, and so from the interpreter's workers."""
    # The rules are made before the user changes: they follow folders, and those may lie in a home that is root's alone.
    folders, files = readable()
    rights = dict.fromkeys([*folders, *files, "/dev/urandom", "/dev/zero"], locks.READ)
    rights["/dev/null"] = locks.READ | locks.WRITE_FILE
    programs = [wanted["binary"], *map(str, Path("/").glob("lib*/ld-linux*.so*"))]  # and what the kernel loads it with
    rights |= dict.fromkeys(map(os.path.realpath, programs), locks.READ | locks.EXECUTE)
    ruleset = locks.make_ruleset(rights)
    root = os.geteuid() == 0
    flags = locks.NEW_NETWORK | locks.NEW_IPC | (0 if root else locks.NEW_USER)
    network = locks.libc.unshare(flags) == 0
    if root:
        os.setgroups([])
        os.setresgid(wanted["user"], wanted["user"], wanted["user"])
        os.setresuid(wanted["user"], wanted["user"], wanted["user"])
    landlock = ruleset >= 0 and locks.restrict_files(ruleset)
    locks.prctl(locks.PR_SET_NO_NEW_PRIVS, 1)
    locks.limit_resources({"as": wanted["memory"], "fsize": 0, "core": 0, "nofile": 64, "memlock": 0, "msgqueue": 0})
    return {"landlock": landlock, "network": network}


def _receive(control: socket.socket) -> Any:
    size = int.from_bytes(_exactly(control, wire.HEADER), "little")
    if size > MAX_JOB:
        raise EOFError
    return json.loads(_exactly(control, size))


def _exactly(control: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = control.recv(min(1 << 20, size - len(data)))
        if not part:
            raise EOFError
        data += part
    return bytes(data)
