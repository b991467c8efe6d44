"""The process that asks math-verify: `python -m oxrl_core.rewards.math_server FD`, started by rewards/math_client.py.

It imports the computer algebra once and forks a child that answers; the child of a question that takes too long is
ended by the kernel's alarm, which needs nobody's cooperation, and the next one is there after a fork and not after an
import. math-verify's own timeouts are off: they raise in whatever code is running, which may swallow them.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import signal
import sys
from functools import lru_cache
from multiprocessing.connection import Connection
from typing import Any

MEMORY_BYTES = 512 * 2**20  # on top of what the imports take
PER_CHILD = 500  # questions, after which a fresh child takes over: sympy's caches only grow
ENDED = 3  # exit code: the other side has closed
ENOUGH = 4  # exit code: this child has answered its share
WARM_UP = (("x^2+2x+1", "(x+1)^2"), (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}"), (r"(1,\pi]", r"(1,\pi]"))


class Checker:
    """math-verify with everything that could guess switched off."""

    def __init__(self) -> None:
        self.library: Any = importlib.import_module("math_verify")
        parser: Any = importlib.import_module("math_verify.parser")
        self.read = lru_cache(maxsize=512)(self._read)  # a prompt's completions share its reference
        self.forms = [parser.LatexExtractionConfig(boxed_match_priority=0)]

    def _read(self, text: str) -> Any:
        # "first_match" as fallback would return the text itself, and compare texts again.
        return self.library.parse(
            rf"\boxed{{{text}}}", self.forms, fallback_mode="no_fallback", extraction_mode="first_match",
            parsing_timeout=None, raise_on_error=True,
        )  # fmt: skip

    def is_equal(self, wanted: str, given: str) -> tuple[str, str]:
        """("equal" | "different" | "unreadable", what could not be read)."""
        sides: list[Any] = []
        for side, text in (("reference", wanted), ("answer", given)):
            try:
                sides.append(self.read(text))
            except Exception as error:  # the library raises whatever its layers raise
                return "unreadable", f"{side}: {type(error).__name__}"
            if not sides[-1]:
                return "unreadable", f"{side}: no mathematics in it"
        try:
            same = self.library.verify(*sides, timeout_seconds=None, strict=True, raise_on_error=True)
        except (RecursionError, MemoryError):  # nobody has compared them: that must not read as "different"
            raise
        except Exception:  # e.g. an interval compared with a matrix: not the same thing
            same = False
        return ("equal" if same else "different"), ""


def _answer(connection: Connection, checker: Checker) -> int:
    """The child: answers questions until it has done its share. Its memory is bounded; a fault ends it alone."""
    pages = int(open("/proc/self/statm").read().split()[0]) if sys.platform == "linux" else 0  # noqa: PTH123, SIM115
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY_BYTES
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for _ in range(PER_CHILD):
        try:
            seconds, wanted, given = connection.recv()
        except (EOFError, OSError):
            return ENDED
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            reply = checker.is_equal(wanted, given)
        except (MemoryError, RecursionError) as error:
            reply = ("too_large", type(error).__name__)
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        connection.send(reply)
    return ENOUGH


def serve(connection: Connection) -> None:
    """Keeps a child at work until the other side closes; says so where a question has killed one."""
    checker = Checker()
    for wanted, given in WARM_UP:
        checker.is_equal(wanted, given)
    connection.send(("ready", ""))
    while True:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = _answer(connection, checker)
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code == ENDED:
            return
        if code != ENOUGH:
            connection.send(("timeout", "") if code == -signal.SIGALRM else ("died", f"exit code {code}"))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What the library logs about its timeouts, question by question, helps nobody.
    with open(os.devnull, "w") as quiet, contextlib.redirect_stderr(quiet):  # noqa: PTH123
        sys.setrecursionlimit(3000)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            serve(Connection(int(sys.argv[1])))
