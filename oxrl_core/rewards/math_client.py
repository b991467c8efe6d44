"""Asks math-verify in a process that may be killed (rewards/math_server.py), after a look at what is asked."""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from functools import lru_cache
from importlib.util import find_spec
from multiprocessing.connection import Connection, Pipe
from typing import Literal

Outcome = Literal["equal", "different", "unreadable", "too_large", "timeout", "died", "missing"]

SECONDS = 1.3  # of one question, so that with all around it none takes 1.6
START_SECONDS = 60.0  # to import sympy on a busy machine; once a process
DEEPEST = 30
MOST_TOKENS = 200
LARGEST_EXPONENT = 10_000
LARGEST_FACTORIAL = 1_000
MISSING = "it takes computer algebra to compare these two: pip install math-verify"

PIECE = re.compile(r"\\[a-zA-Z]+|\d+|[^\s]")
UNDONE = re.compile(r"\\(?:sum|prod|i*int|oint|lim|bigcup|bigcap|coprod)(?![a-zA-Z])")
EXPONENT = re.compile(r"\^\s*(?:\{\s*[-+]?(\d+)\s*\}|(\d))")
CHAIN = re.compile(r"\^\s*(?:\w|\{[^{}]*\})\s*\^")
FACTORIAL = re.compile(r"(?:(?<!\d)(\d{1,5})|(.))\s*!(!?)", re.DOTALL)
BINOMIAL = re.compile(r"\\[dt]?binom\s*(?:\{\s*(\d{1,5})\s*\}\s*\{\s*(\d{1,5})\s*\})?")


def too_large(text: str) -> str:
    """Why a text is not given to computer algebra, or nothing. It looks only: every step is linear."""
    if UNDONE.search(text):
        return "a sum, product, integral or limit that is left to be computed"
    if len(PIECE.findall(text)) > MOST_TOKENS:
        return "a formula of more than 200 symbols"
    depth = deepest = towers = 0
    exponents: list[int] = []  # the depths at which an exponent in braces is open
    previous = ""
    for character in text:
        if character in "([{":
            depth += 1
            if previous == "^":
                exponents.append(depth)
        elif character in ")]}":
            if exponents and exponents[-1] == depth:
                exponents.pop()
            depth -= 1
        elif character == "^":
            towers = max(towers, len(exponents))
        deepest = max(deepest, depth)
        previous = character if not character.isspace() else previous
    if deepest > DEEPEST:
        return f"brackets {deepest} deep"
    if CHAIN.search(text) or towers > 1 or (towers and not re.search(r"(?<![\\a-zA-Z])[a-zA-Z]", text)):
        return "a tower of powers"
    product = 1
    for match in EXPONENT.finditer(text):
        product *= max(1, int(match[1] or match[2])) if len(match[1] or "") < 9 else LARGEST_EXPONENT + 1
        if product > LARGEST_EXPONENT:
            return f"exponents above {LARGEST_EXPONENT}"
    for match in FACTORIAL.finditer(text):
        if match[3] or not match[1] or int(match[1]) > LARGEST_FACTORIAL:
            return "a factorial that is too large or nested"
    for match in BINOMIAL.finditer(text):
        if match[1] is None or int(match[1]) > LARGEST_FACTORIAL:
            return "a binomial coefficient that is too large"
    return ""


class MathServer:
    """The process, started at the first question and again where it was lost."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None
        self.connection: Connection | None = None
        self.owner = os.getpid()

    def ask(self, wanted: str, given: str) -> tuple[Outcome, str]:
        """What math-verify says, after at most 1.3 s once the process stands."""
        with self.lock:
            connection = self.connection or self._start()
            if connection is None:
                return "died", f"math-verify did not start within {START_SECONDS:.0f} s"
            try:
                connection.send((SECONDS, wanted, given))
                if connection.poll(SECONDS + 1.0):  # the kernel's alarm comes first
                    return connection.recv()
            except (EOFError, OSError):
                self.close()
                return "died", "the process of math-verify ended"
            self.close()
            return "timeout", ""

    def _start(self) -> Connection | None:
        ours, theirs = Pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "oxrl_core.rewards.math_server", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=2,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        theirs.close()
        self.connection = ours
        with contextlib.suppress(EOFError, OSError):
            if ours.poll(START_SECONDS):
                ours.recv()
                return ours
        self.close()
        return None

    def close(self) -> None:
        """Ends the process; its child ends with the connection, or at its alarm."""
        if self.connection is not None:
            self.connection.close()
        if self.process is not None and self.owner == os.getpid():
            deadline = time.monotonic() + 0.05
            while self.process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)  # it leaves by itself when the connection closes
            self.process.kill()
            self.process.wait(timeout=10)
        self.process = self.connection = None


class _LostError(Exception):
    """No verdict: what is raised is not remembered."""


@lru_cache(maxsize=8192)
def _remembered(wanted: str, given: str) -> tuple[Outcome, str]:
    outcome, detail = _server.ask(wanted, given)
    if outcome == "died":
        raise _LostError(detail)
    return outcome, detail


def ask_math_verify(wanted: str, given: str) -> tuple[Outcome, str]:
    """Whether two texts are the same mathematics, and what stood in the way of an answer."""
    if find_spec("math_verify") is None:
        return "missing", MISSING
    try:
        return _remembered(wanted, given)
    except _LostError as error:
        return "died", str(error)


_server = MathServer()
atexit.register(_server.close)
