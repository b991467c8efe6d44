"""Processes of a run, by identity and never by name.

A pid alone lies: it is reused. An identity is (pid, start time, boot id), and a signal goes through a pidfd that was
opened before the start time was compared, so it can only reach the process that was meant.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

RUN_ID_VARIABLE = "OXRL_RUN_ID"
_DEAD = "ZX"  # zombie, dead: nothing runs any more, only the parent has not asked yet


@dataclass(frozen=True)
class ProcessIdentity:
    """One process of one boot of one machine."""

    pid: int
    start: int  # clock ticks after boot: field 22 of /proc/<pid>/stat
    boot: str
    host: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any] | None) -> ProcessIdentity | None:
        """The identity that `as_dict` wrote, None where there is none."""
        if not data:
            return None
        return cls(int(data["pid"]), int(data["start"]), str(data["boot"]), str(data["host"]))


@dataclass(frozen=True)
class _Row:
    parent: int
    state: str
    start: int


_boot_id = ""


def _read(path: str) -> bytes:
    """A file of /proc. Hundreds are read in one scan, so no file object is made for each."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = b""
        while block := os.read(descriptor, 1 << 17):
            content += block
        return content
    finally:
        os.close(descriptor)


def boot_id() -> str:
    """The id of this boot of the machine."""
    global _boot_id
    if not _boot_id:
        _boot_id = _read("/proc/sys/kernel/random/boot_id").decode().strip()
    return _boot_id


def _read_row(pid: int) -> _Row | None:
    try:
        # The name stands in parentheses and may itself hold spaces and parentheses.
        fields = _read(f"/proc/{pid}/stat").rsplit(b")", 1)[1].split()
        return _Row(parent=int(fields[1]), state=fields[0].decode(), start=int(fields[19]))
    except (OSError, IndexError, ValueError):
        return None  # it ended between two of our steps


def _identity(pid: int, row: _Row) -> ProcessIdentity:
    return ProcessIdentity(pid, row.start, boot_id(), os.uname().nodename)


def identify(pid: int) -> ProcessIdentity | None:
    """The identity of a process, None if there is no such process. A zombie has one."""
    row = _read_row(pid)
    return _identity(pid, row) if row else None


def is_foreign_host(identity: ProcessIdentity) -> bool:
    """Whether it lives on another machine (a shared home folder), where /proc here says nothing about it."""
    return identity.host != os.uname().nodename


def is_alive(identity: ProcessIdentity | None) -> bool:
    """Whether exactly this process runs now; a zombie does not."""
    if identity is None or identity.boot != boot_id():
        return False
    row = _read_row(identity.pid)
    return row is not None and row.start == identity.start and row.state not in _DEAD


def send_signal(identity: ProcessIdentity, signum: int) -> bool:
    """Whether the signal reached exactly this process. The caller itself is never signalled."""
    if identity.pid == os.getpid():
        return False
    try:
        pidfd = os.pidfd_open(identity.pid)
    except (ProcessLookupError, PermissionError):
        return False
    try:
        if not is_alive(identity):
            return False
        signal.pidfd_send_signal(pidfd, signum)
        return True
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        os.close(pidfd)


def _all_pids() -> list[int]:
    with os.scandir("/proc") as entries:
        return [int(entry.name) for entry in entries if entry.name.isdigit()]


def descendants(roots: Iterable[int]) -> list[ProcessIdentity]:
    """The living processes below the given ones, the roots themselves left out."""
    rows = {pid: row for pid in _all_pids() if (row := _read_row(pid)) is not None}
    children: dict[int, list[int]] = {}
    for pid, row in rows.items():
        children.setdefault(row.parent, []).append(pid)
    found: list[ProcessIdentity] = []
    to_visit = list(roots)
    seen = set(to_visit)
    while to_visit:
        for pid in children.get(to_visit.pop(), []):
            if pid not in seen:
                seen.add(pid)
                to_visit.append(pid)
                if rows[pid].state not in _DEAD:
                    found.append(_identity(pid, rows[pid]))
    return found


def members_by_run() -> dict[str, list[ProcessIdentity]]:
    """The living processes that carry a run id in their environment, by run id; this process is left out."""
    marker = f"{RUN_ID_VARIABLE}=".encode()
    members: dict[str, list[ProcessIdentity]] = {}
    for pid in _all_pids():
        if pid == os.getpid():
            continue
        try:
            environment = _read(f"/proc/{pid}/environ")
        except OSError:
            continue  # ended, or of another user: not ours
        position = environment.rfind(b"\0" + marker)
        if position < 0 and not environment.startswith(marker):
            continue
        run_id = environment[position + 1 + len(marker) :].split(b"\0", 1)[0].decode(errors="replace")
        row = _read_row(pid)
        if row is not None and row.state not in _DEAD:
            members.setdefault(run_id, []).append(_identity(pid, row))
    return members


def end_processes(
    find: Callable[[], list[ProcessIdentity]],
    *,
    term_seconds: float,
    kill_seconds: float = 20.0,
    tick: Callable[[], None] = lambda: time.sleep(0.05),
) -> list[ProcessIdentity]:
    """What is left after SIGTERM, `term_seconds`, and SIGKILL for `kill_seconds`: nothing, unless the kernel holds it.

    `find` is asked again and again, because what is being ended may still start children.
    """
    kill_from = time.monotonic() + term_seconds
    give_up_at = kill_from + kill_seconds
    asked: set[ProcessIdentity] = set()
    empty_scans = 0
    while True:
        left = find()
        now = time.monotonic()
        # One scan can miss a child that was born behind its back; two in a row do not.
        empty_scans = 0 if left else empty_scans + 1
        if empty_scans == 2 or now > give_up_at:
            return left
        for identity in left:
            if now >= kill_from:
                send_signal(identity, signal.SIGKILL)
            elif identity not in asked:
                send_signal(identity, signal.SIGTERM)
                asked.add(identity)
        tick()
