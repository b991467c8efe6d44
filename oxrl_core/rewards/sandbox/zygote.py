"""The fork server: a plain interpreter with an empty environment, started by pool.py, that forks a child per execution.

It holds no secret and is told none: jobs go from the judge straight to the child. Control is one message at a time on a
SOCK_SEQPACKET socket: ["fork", kind, limits] with the child's channel -> ["forked", pid]; ["end", pid] -> ["ended",
wait status, peak memory in KiB]; ["wait", pid] -> ["waited"]. When the socket closes it ends, and every child with it.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import sys
import sysconfig
import time
from pathlib import Path
from typing import NoReturn

from oxrl_core.rewards.sandbox import child, locks

# What solutions commonly import, imported once; a child starts with it in memory. The rest is read when asked for.
PRELOADED = (
    "array", "ast", "bisect", "cmath", "collections", "copy", "dataclasses", "datetime", "decimal", "enum", "fractions",
    "functools", "hashlib", "heapq", "inspect", "io", "itertools", "json", "math", "operator", "queue", "random", "re",
    "statistics", "string", "textwrap", "threading", "time", "traceback", "types", "typing", "unicodedata", "zlib",
)  # fmt: skip
TMP_BYTES = 4 << 20
EXIT_NOT_LOCKED = 71  # a child that could not be locked down has run nothing
MOMENT_SECONDS = 0.2
NOT_INHERITED = 1 << 12  # descriptors above the channel are closed up to here; the limit of open files is far below


def main(control_fd: int) -> None:
    """Serves until the judge closes the socket."""
    # No PR_SET_PDEATHSIG here: it would follow the judge's thread, not its process. The closed socket says it all.
    control = socket.socket(fileno=control_fd)
    os.environ.clear()
    for name in PRELOADED:
        __import__(name)
    wanted = json.loads(control.recv(1 << 16))
    # A descriptor that was not meant for this process must not reach a child either.
    os.closerange(3, control_fd)
    os.closerange(control_fd + 1, NOT_INHERITED)
    folders, files = readable()
    problems: dict[str, str] = {}
    namespaces = bool(wanted["namespaces"]) and _enter_namespaces(control, folders, problems)
    if not namespaces and os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(wanted["user"], wanted["user"], wanted["user"])
        os.setresuid(wanted["user"], wanted["user"], wanted["user"])
        if not os.access(folders[0], os.R_OK | os.X_OK):
            problems["whole standard library"] = f"{folders[0]} is for root alone; {len(PRELOADED)} modules are loaded"
    if namespaces:
        _become_first_process(control)
        locks.fresh_tmp(TMP_BYTES)
    sys.path = [path for path in sys.path if path.startswith(tuple(folders))]
    rules = _make_rules([*folders, *files], namespaces)
    if rules["tests"] < 0:
        problems["landlock"] = f"the kernel has no Landlock (ABI {locks.landlock_abi()})"
    syscalls = locks.make_seccomp()
    if syscalls is None:
        problems["seccomp"] = "the kernel has no seccomp filters, or the table does not know this processor"
    landlock = locks.landlock_abi() if rules["tests"] >= 0 else 0
    level = {"namespaces": namespaces, "landlock": landlock, "seccomp": syscalls is not None, "problems": problems}
    control.send(json.dumps(["ready", level]).encode())
    gc.collect()
    gc.freeze()  # what is here is never garbage: children need not walk, and so copy, its pages
    _serve(control, [*folders, *files] if namespaces else [], rules, syscalls)


def readable() -> tuple[list[str], list[str]]:
    """The folders and files that a Python program reads: the standard library and the libraries it links."""
    python = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")]
    maps = Path("/proc/self/maps").read_text().splitlines()
    mapped = [line.split(maxsplit=5)[5].strip() for line in maps if ".so" in line]
    libraries = [str(Path(path).resolve().parent) for path in mapped if path.startswith("/")]
    zones = [path for path in ("/usr/share/zoneinfo",) if Path(path).is_dir()]
    folders = list(dict.fromkeys([os.path.realpath(path) for path in python] + libraries + zones))
    return folders, ["/etc/ld.so.cache"]


def _make_rules(paths: list[str], has_tmp: bool) -> dict[str, int]:
    """The Landlock rules of each kind of job; -1 without Landlock."""
    rights = dict.fromkeys([*paths, "/dev/urandom", "/dev/zero"], locks.READ)
    rights["/dev/null"] = locks.READ | locks.WRITE_FILE
    solution = locks.make_ruleset(rights | ({"/tmp": locks.WRITE} if has_tmp else {}))
    # Test code must find nothing that a solution has left behind.
    return {"functions": solution, "program": solution, "tests": locks.make_ruleset(rights)}


def _enter_namespaces(control: socket.socket, folders: list[str], problems: dict[str, str]) -> bool:
    """Whether this process now has a file tree, a network and a process tree of its own, all empty.

    The judge writes whom it is outside: a user of its own where the judge is root, else the judge's user.
    """
    error = locks.unshare()
    control.send(json.dumps(["unshared", error]).encode())
    if error:
        problems["namespaces"] = f"unshare: {os.strerror(error)}"
        return False
    answer = json.loads(control.recv(1 << 16))
    if answer[0] != "mapped":
        _fail(control, f"the user cannot be mapped: {answer[1]}")
    try:
        locks.private_root(folders, (0, 0))
    except OSError as failure:
        _fail(control, f"a private root: {failure}")  # half a way in there is no way back: the judge starts another
    return True


def _fail(control: socket.socket, why: str) -> NoReturn:
    control.send(json.dumps(["failed", why]).encode())
    os._exit(1)


def _become_first_process(control: socket.socket) -> None:
    """Returns in a process that is number 1 of its own tree; when it ends, the kernel ends all that are in the tree."""
    first = os.fork()
    if first:
        control.close()
        _, status = os.waitpid(first, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    locks.prctl(locks.PR_SET_PDEATHSIG, signal.SIGKILL)
    # Where the keeper has died in between, the socket is closed, and serving ends at once.


def _serve(control: socket.socket, paths: list[str], rules: dict[str, int], syscalls: bytes | None) -> None:
    """`paths`: what may be read, where there is a file tree of our own; else nothing."""
    namespaces = bool(paths)
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1 << 16, 2)
        if not message:
            return
        request = json.loads(message)
        if request[0] == "end":
            control.send(json.dumps(["ended", *_end(request[1])]).encode())
            if namespaces and os.listdir("/tmp"):  # noqa: PTH208 - pathlib takes longer than the kernel
                rules = _empty_tmp(paths, rules)
            continue
        if request[0] == "wait":
            _wait(request[1])
            control.send(b'["waited"]')
            continue
        _, kind, limits = request
        pid = os.fork()
        if pid == 0:
            try:
                _lock(descriptors[0], kind, limits, namespaces, rules[kind], syscalls)
            except BaseException:  # nothing of the job has been read yet
                os._exit(EXIT_NOT_LOCKED)
            try:
                child.work(kind)
            finally:
                os._exit(1)
        for descriptor in descriptors:
            os.close(descriptor)
        control.send(json.dumps(["forked", pid]).encode())


def _end(pid: int) -> tuple[int, int]:
    """Wait status and peak memory of a child that is dead now."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)  # it may have died, or been killed, before it made its group
    _, status, usage = os.wait4(pid, 0)
    return status, usage.ru_maxrss


def _empty_tmp(paths: list[str], rules: dict[str, int]) -> dict[str, int]:
    """New rules, because a new folder stands in the place of the old one: rules follow folders, not names."""
    locks.libc.umount2(b"/tmp", locks.MNT_DETACH)
    locks.fresh_tmp(TMP_BYTES)
    for ruleset in {rule for rule in rules.values() if rule >= 0}:
        os.close(ruleset)
    return _make_rules(paths, has_tmp=True)


def _wait(pid: int) -> None:
    """Returns once a child that has closed its standard output has ended, or has had its moment to."""
    end = time.monotonic() + MOMENT_SECONDS
    while time.monotonic() < end:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(0.0005)


def _lock(
    channel: int, kind: str, limits: dict[str, int], namespaces: bool, ruleset: int, syscalls: bytes | None
) -> None:
    """Locks this process down, or raises."""
    os.setsid()
    locks.prctl(locks.PR_SET_PDEATHSIG, signal.SIGKILL)
    locks.prctl(locks.PR_SET_DUMPABLE, 0)
    if ruleset >= 0 and not locks.restrict_files(ruleset):
        raise OSError("Landlock")
    nothing = os.open("/dev/null", os.O_RDWR)
    stdin = os.memfd_create("stdin") if kind == "program" else nothing
    standard = (stdin, nothing, nothing, channel)
    high = [os.dup(descriptor) for descriptor in standard]
    while min(high) <= child.CHANNEL:  # none may be overwritten before it is in its place
        high = [os.dup(descriptor) for descriptor in high]
    for place, descriptor in enumerate(high):
        os.dup2(descriptor, place)
    os.closerange(child.CHANNEL + 1, NOT_INHERITED)
    os.chdir("/tmp" if namespaces and kind != "tests" else "/")
    locks.limit_resources(limits)
    if namespaces and not locks.drop_capabilities():
        raise OSError("capabilities")
    gc.enable()
    if syscalls is not None and not locks.restrict_syscalls(syscalls):
        raise OSError("seccomp")
