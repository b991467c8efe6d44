"""How strongly model text is held here, and who may run it with less.

strong      an empty file tree, network and process tree of its own, Landlock, seccomp and limits
standard    Landlock, seccomp and limits: where user namespaces are forbidden, as in many containers
basic       the empty trees, seccomp and limits: kernels before 5.13, which have no Landlock
none        less than that: the code reward refuses, unless the operator's file says otherwise
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from oxrl_core.errors import RewardError

LevelName = Literal["strong", "standard", "basic", "none"]


@dataclass(frozen=True)
class Level:
    """What the fork server could switch on, and why it could not switch on the rest."""

    namespaces: bool = False
    landlock: int = 0  # the kernel's version of it (ABI)
    seccomp: bool = False
    problems: tuple[str, ...] = ()

    @property
    def name(self) -> LevelName:
        """The level in one word."""
        if not self.seccomp or not (self.namespaces or self.landlock):
            return "none"
        if not self.landlock:
            return "basic"
        return "strong" if self.namespaces else "standard"

    def __str__(self) -> str:
        parts = [
            "namespaces" if self.namespaces else "",
            f"Landlock {self.landlock}" if self.landlock else "",
            "seccomp" if self.seccomp else "",
            "limits",
        ]
        missing = f"; {'; '.join(self.problems)}" if self.problems else ""
        return f"{self.name} ({', '.join(filter(None, parts))}{missing})"


def level_of(told: Mapping[str, Any]) -> Level:
    """The level that a fork server's message means."""
    problems = cast("dict[str, str]", told["problems"])
    return Level(
        bool(told["namespaces"]),
        int(told["landlock"]),
        bool(told["seccomp"]),
        tuple(f"no {what}: {why}" for what, why in problems.items()),
    )


def operator_file() -> Path:
    """The file in the folder of all runs that no tool, run or configuration of oxRL writes or overrides."""
    return Path(os.environ.get("OXRL_HOME") or Path.home() / ".oxrl").expanduser().absolute() / "operator.yaml"


def unprotected_is_allowed() -> bool:
    """Whether the operator has written `sandbox: {allow_unprotected: true}` into a file that nobody else can write."""
    path = operator_file()
    try:
        status = path.stat()
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    except OSError as error:
        raise RewardError(f"the operator's file cannot be read: {error.strerror}", where=str(path)) from error
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise RewardError(
            "the operator's file belongs to somebody else, or others can write it",
            where=str(path),
            next_step=f"chown it to the user who runs oxRL, and chmod 600 {path}",
        )
    import yaml

    try:
        content: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RewardError(f"the operator's file is no YAML: {error}", where=str(path)) from error
    section: Any = cast("dict[str, Any]", content).get("sandbox") if isinstance(content, dict) else None
    return isinstance(section, dict) and cast("dict[str, Any]", section).get("allow_unprotected") is True


def require(level: Level) -> None:
    """Raises where text of a model may not run at this level."""
    if level.name == "none" and not unprotected_is_allowed():
        raise RewardError(
            f"this machine cannot hold the code that models write: {'; '.join(level.problems) or 'nothing to hold it'}",
            where="the code reward's sandbox",
            next_step="use Linux 5.13 or later on x86-64 or aarch64, or allow user namespaces and seccomp in the "
            f"container; where the machine itself is disposable, its operator may write sandbox: "
            f"{{allow_unprotected: true}} into {operator_file()}",
        )


# Run as a solution before the first real one. Each attempt must fail; its name is returned where it does not.
SELF_TEST = """
import ctypes, os, socket
def attempts(secret):
    libc, done = ctypes.CDLL(None, use_errno=True), []
    def attempt(name, function):
        try:
            if function() is not False:
                done.append(name)
        except BaseException:
            pass
    attempt("read a file of the judge", lambda: open(secret).read(1))
    attempt("list /proc", lambda: os.listdir("/proc"))
    attempt("list the home", lambda: os.listdir("/root") and False or os.listdir("/home"))
    attempt("write beside its folder", lambda: open("/var/tmp/oxrl-self-test", "x"))
    attempt("open a socket", lambda: socket.socket())
    attempt("open a local socket", lambda: socket.socket(socket.AF_UNIX))
    attempt("start a process", lambda: os.fork() or os._exit(0))
    attempt("run a program", lambda: os.execv("/bin/sh", ["sh", "-c", "exit 0"]))
    attempt("signal its parent", lambda: os.kill(os.getppid() or 1, 0))
    attempt("trace", lambda: libc.ptrace(0, 0, 0, 0) == 0)
    attempt("make namespaces", lambda: libc.unshare(0x10000000) == 0)
    attempt("raise a limit", lambda: __import__("resource").setrlimit(7, (16, 16)))
    attempt("read its environment", lambda: bool(os.environ))
    return done
"""
