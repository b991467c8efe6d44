"""Verdicts of a judge, kept on disk: a question that was answered once is not paid for twice, in no run."""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
import uuid
from contextlib import suppress
from pathlib import Path

FILE = "verdicts.sqlite"
BUSY_SECONDS = 5.0  # another run writes to the same file


def cache_folder() -> Path:
    """Where verdicts are kept for all runs: cache/judge in the folder of all runs ($OXRL_HOME, else ~/.oxrl)."""
    return Path(os.environ.get("OXRL_HOME") or Path.home() / ".oxrl").expanduser().absolute() / "cache" / "judge"


class VerdictCache:
    """Verdicts by the hash of their question. A cache that cannot be read or written is done without, and says so."""

    def __init__(self, folder: Path | None) -> None:
        """`folder` None keeps nothing."""
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        if folder is None:
            return
        path = folder / FILE
        try:
            try:
                self._connection = _open(path)
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):  # locked, no permission, full: the file may be sound
                    raise
                aside = path.with_name(f"{FILE}.corrupt-{uuid.uuid4().hex[:8]}")
                path.replace(aside)
                print(f"the judge's cache was corrupt ({error}); it is now {aside}", file=sys.stderr, flush=True)
                self._connection = _open(path)
        except (sqlite3.Error, OSError) as error:
            self._do_without(error)

    def get(self, key: str) -> str | None:
        """The verdict, where it is known."""
        with self._lock:
            if self._connection is None:
                return None
            try:
                row = self._connection.execute("SELECT verdict FROM verdicts WHERE key = ?", (key,)).fetchone()
            except sqlite3.Error as error:
                self._do_without(error)
                return None
        return str(row[0]) if row else None

    def put(self, key: str, verdict: str) -> None:
        """Keeps a verdict."""
        with self._lock:
            if self._connection is None:
                return
            try:
                with self._connection:
                    self._connection.execute("INSERT OR REPLACE INTO verdicts VALUES (?, ?)", (key, verdict))
            except sqlite3.Error as error:
                self._do_without(error)

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _do_without(self, error: Exception) -> None:
        print(f"the judge's cache cannot be used, every question is asked: {error}", file=sys.stderr, flush=True)
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, check_same_thread=False)
    try:
        # Not flushed after each verdict: what a power cut spoils is made anew.
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, verdict TEXT NOT NULL)")
        connection.execute("SELECT verdict FROM verdicts LIMIT 1").fetchone()
        connection.commit()
    except sqlite3.Error:
        connection.close()
        raise
    return connection
