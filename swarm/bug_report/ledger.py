"""What this machine has sent: one line per event, the intent before the request and the result after it.

A process that died between both leaves an intent without a result: the issue may exist, and nobody may send it again
before a search has said that it does not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from oxrl_core.runs.records import append_line, file_lock, read_lines

DAY = 86_400.0
QUIET_DAYS = 30  # one report of a failure in so many days
FAILURES_TO_OPEN = 2  # of the circuit breaker
OPEN_SECONDS = 3600.0
LOCK_SECONDS = 240.0
SETTLE_SECONDS = 30.0  # how long a request of a process that died may still be on its way


class Ledger:
    """The ledger of one home; read and written under its lock."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "reports"
        self.path = self.folder / "ledger.jsonl"

    @contextmanager
    def held(self) -> Generator[None]:
        """The right to send: one process at a time, and the kernel takes it back from a dead one."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with file_lock(self.folder / ".lock", LOCK_SECONDS):
            yield

    def write(self, event: str, fingerprint: str, **facts: Any) -> None:
        """Adds an event; it is on the disk when this returns."""
        record = {"time": time.time(), "event": event, "fingerprint": fingerprint, **facts}
        append_line(self.path, record, mend=True)
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rows(self, repo: str) -> list[dict[str, Any]]:
        """The events about one repository, oldest first."""
        return [
            row
            for row in read_lines(self.path)
            if row.get("repo") == repo and isinstance(row.get("time"), (int, float))
        ]

    def url_of(self, fingerprint: str, repo: str) -> str:
        """The issue in which this failure was reported within 30 days; empty where there is none."""
        since = time.time() - QUIET_DAYS * DAY
        for row in reversed(self.rows(repo)):
            if row["fingerprint"] == fingerprint and row["event"] in ("sent", "duplicate") and row["time"] >= since:
                return str(row.get("url", ""))
        return ""

    def must_wait(self, fingerprint: str, repo: str, max_per_day: int) -> tuple[str, float] | None:
        """Why nothing may be sent now, and for how many seconds; None where it may."""
        now = time.time()
        rows = self.rows(repo)
        pause = max((float(row.get("not_before") or 0.0) for row in rows), default=0.0)
        if pause > now:
            return "the server asked to be left alone", min(pause - now, DAY)
        outcomes = [row for row in rows if row["event"] in ("sent", "failed", "unknown")]
        latest = outcomes[-FAILURES_TO_OPEN:]
        if len(latest) == FAILURES_TO_OPEN and all(row["event"] != "sent" for row in latest):
            left = latest[-1]["time"] + OPEN_SECONDS - now
            if left > 0:
                return f"the last {FAILURES_TO_OPEN} attempts failed", left
        intent = self._open_intent(rows, fingerprint)
        if intent is not None and (left := intent["time"] + SETTLE_SECONDS - now) > 0:
            return "an attempt that was cut short may still be on its way", left
        counted = [row["time"] for row in _attempts(rows) if row["time"] > now - DAY]
        if intent is None and len(counted) >= max_per_day:
            return f"{max_per_day} reports were sent within a day", min(counted[-max_per_day:]) + DAY - now
        return None

    @staticmethod
    def _open_intent(rows: list[dict[str, Any]], fingerprint: str) -> Mapping[str, Any] | None:
        own = [row for row in rows if row["fingerprint"] == fingerprint]
        last = next((row for row in reversed(own) if row["event"] != "unknown"), None)
        return last if last is not None and last["event"] == "intent" else None


def _attempts(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The latest intent of each failure that has or may have become an issue."""
    attempts: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["event"] == "intent":
            attempts[row["fingerprint"]] = row
        elif row["event"] in ("failed", "duplicate") and row["fingerprint"] in attempts and "url" not in row:
            del attempts[row["fingerprint"]]
    return sorted(attempts.values(), key=lambda row: row["time"])
