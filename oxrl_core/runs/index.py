"""The index of a home, `<home>/index.db`: which runs there are, and how those that ended look. It only saves time.

The run directories are the truth. The index is filled by whoever lists runs, is compared with the directories at every
use, and is made anew where it is missing, corrupt or of another version. Many processes use it at once: SQLite with a
rollback journal, because write-ahead logging before 3.51.3 could corrupt a file that has several writers.

A process keeps the connection that it used last, as long as the file is the same one and nobody has written to it:
opening it costs more than asking it. What it says is always read from the file.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from oxrl_core.errors import OxrlError
from oxrl_core.runs.records import file_lock
from oxrl_core.runs.rundir import RUN_ID_PATTERN

FILE = "index.db"
VERSION = 1
FINAL_STATES = ("finished", "failed", "stopped")  # lost is none: such a run can be adopted
_BUSY_SECONDS = 5.0
_SETTLED_SECONDS = 1.0  # a folder that changed within a tick of the file system's clock may change again unseen
_BATCH = 64
_TABLES = """
create table runs (run_id text primary key, born integer not null, state text not null, mark text not null);
create index runs_by_birth on runs (born desc, run_id desc, state);
create table views (run_id text primary key, view text not null);
create table folder (mtime integer not null, unborn text not null);
insert into folder values (0, '[]');
"""


class IndexRow(NamedTuple):
    """A run as the index knows it; state and mark are empty until it has ended."""

    run_id: str
    born: int
    state: str
    mark: str  # of the status.json that its view was made of


def mark_of(run_folder: str) -> str:
    """Changes when the final record of a run does; empty: there is none."""
    try:
        info = os.stat(f"{run_folder}/status.json")  # noqa: PTH116 (a Path would double the time of a list)
    except OSError:
        return ""
    return f"{info.st_mtime_ns}.{info.st_ino}"


class Index:
    """The runs of one home, newest first. Use `open_index`."""

    def __init__(self, connection: sqlite3.Connection, home: Path, *, is_in_memory: bool = False) -> None:
        self.connection = connection
        self.runs = home / "runs"
        self.is_in_memory = is_in_memory

    def sync(self) -> None:
        """Make the rows those of the run directories that there are. Costs one stat where nothing has changed: a new
        run, one that is removed and one that goes on after its end all change the folder's time."""
        try:
            mtime = self.runs.stat().st_mtime_ns
        except FileNotFoundError:
            mtime = 0
        known, unborn = self.connection.execute("select mtime, unborn from folder").fetchone()
        if mtime == known and unborn == "[]":
            return
        there: set[str] = set()
        with suppress(FileNotFoundError), os.scandir(self.runs) as entries:
            there = {entry.name for entry in entries if RUN_ID_PATTERN.match(entry.name)}
        marks = dict(self.connection.execute("select run_id, mark from runs"))
        rows = marks.keys()
        new: list[tuple[str, int]] = []
        still_unborn: list[str] = []
        for run_id in there - rows:
            try:
                # spec.json is written once and last: its time is the run's birth.
                new.append((run_id, (self.runs / run_id / "spec.json").stat().st_mtime_ns))
            except OSError:
                still_unborn.append(run_id)
        going_on = [  # an ended run that somebody resumed
            (run_id,) for run_id in there & rows if marks[run_id] and marks[run_id] != mark_of(f"{self.runs}/{run_id}")
        ]
        is_settled = time.time_ns() - mtime > _SETTLED_SECONDS * 1e9
        with self._writing():
            gone = [(run_id,) for run_id in rows - there]
            self.connection.executemany("delete from runs where run_id = ?", gone)
            self.connection.executemany("delete from views where run_id = ?", gone)
            self.connection.executemany("insert or ignore into runs values (?, ?, '', '')", new)
            self.connection.executemany("update runs set state = '', mark = '' where run_id = ?", going_on)
            facts = (mtime if is_settled else 0, json.dumps(sorted(still_unborn)))
            self.connection.execute("update folder set mtime = ?, unborn = ?", facts)

    def count(self) -> int:
        """Number of runs."""
        return int(self.connection.execute("select count(*) from runs").fetchone()[0])

    def pages(self, state: str = "", after: str = "", size: int = _BATCH) -> Iterator[list[IndexRow]] | None:
        """The runs newest first, those older than `after` alone; None where that is no run.

        With a state, those that ended in another one are left out; what has not ended has to be looked at.
        """
        born = sys.maxsize
        if after:
            found = self.connection.execute("select born from runs where run_id = ?", (after,)).fetchone()
            if found is None:
                return None
            born = int(found[0])
        return self._pages(state, born, after, min(size, _BATCH))

    def _pages(self, state: str, born: int, after: str, size: int) -> Iterator[list[IndexRow]]:
        # Page by page: a statement that is open while its reader does other things would keep writers waiting.
        wanted = "and (state = '' or state = ?)" if state else "and ? = ''"
        query = (
            f"select run_id, born, state, mark from runs where (born, run_id) < (?, ?) {wanted} "
            f"order by born desc, run_id desc limit {size}"
        )
        while page := self.connection.execute(query, (born, after, state)).fetchall():
            yield [IndexRow._make(row) for row in page]
            born, after = page[-1][1], page[-1][0]

    def views(self, run_ids: Sequence[str]) -> dict[str, tuple[str, str]]:
        """By run: the mark of the record that its view was made of, and the view as JSON; of a page of runs at most."""
        query = (
            "select run_id, mark, view from runs join views using (run_id) "
            f"where run_id in ({','.join('?' * len(run_ids))})"
        )
        return {run_id: (mark, view) for run_id, mark, view in self.connection.execute(query, run_ids)}

    def remember(self, ended: Sequence[tuple[IndexRow, str]]) -> None:
        """Keep how these runs ended, and their views. What cannot be written is looked at again the next time."""
        if not ended:
            return
        with self._writing():
            states = [(row.state, row.mark, row.run_id) for row, _ in ended]
            self.connection.executemany("update runs set state = ?, mark = ? where run_id = ?", states)
            views = [(row.run_id, view) for row, view in ended]
            self.connection.executemany("insert or replace into views values (?, ?)", views)

    @contextmanager
    def _writing(self) -> Generator[None]:
        self.connection.execute("begin immediate")
        try:
            yield
        except BaseException:
            self.connection.execute("rollback")
            raise
        self.connection.execute("commit")


@contextmanager
def open_index(home: Path) -> Generator[Index]:
    """The index of a home, in step with its run directories; in memory where the home cannot be written."""
    if _kept_is_used.acquire(blocking=False):
        try:
            with _kept.opened(home) as index:
                yield index
        finally:
            _kept_is_used.release()
    else:  # by another thread
        index = _open_synced(home)
        try:
            yield index
        finally:
            index.connection.close()


class _Kept:
    """The connection that this process used last."""

    def __init__(self) -> None:
        self._index: Index | None = None
        self._file: _FileMark | None = None

    @contextmanager
    def opened(self, home: Path) -> Generator[Index]:
        """The index of a home; not kept where something went wrong with it."""
        file = _FileMark.of(home / FILE)
        index = self._synced() if file is not None and file == self._file else None
        if index is None:
            self._close()
            index = _open_synced(home)
        self._index, self._file = index, file
        is_kept = False
        try:
            yield index
            is_kept = file is not None and not index.is_in_memory
        finally:
            if not is_kept:
                self._close()

    def _synced(self) -> Index | None:
        try:
            if self._index is not None:
                self._index.sync()
        except (sqlite3.Error, TypeError):  # whoever opens it anew finds out what is wrong
            return None
        return self._index

    def _close(self) -> None:
        if self._index is not None:
            self._index.connection.close()
        self._index = self._file = None


class _FileMark(NamedTuple):
    """A file as it is now: another one, or one that was written to, has another mark."""

    process: int  # a connection must not be used by a fork
    path: str
    device: int
    number: int
    mtime: int
    size: int

    @classmethod
    def of(cls, path: Path) -> _FileMark | None:
        """None where there is no file."""
        try:
            info = path.stat()
        except OSError:
            return None
        return cls(os.getpid(), str(path), info.st_dev, info.st_ino, info.st_mtime_ns, info.st_size)


_kept = _Kept()
_kept_is_used = threading.Lock()


def forget_index(home: Path, reason: str = "") -> None:
    """Set the index aside: the next one who lists runs makes it anew. A reason is said on stderr."""
    with suppress(OSError, OxrlError), file_lock(home / ".index.lock", _BUSY_SECONDS):
        if reason and _is_sound(home):
            return  # another process has made it anew meanwhile
        with suppress(FileNotFoundError):
            (home / f"{FILE}-journal").unlink()
        with suppress(FileNotFoundError):
            (home / FILE).replace(home / f"{FILE}.bad")
        if reason:
            print(f"oxrl: {home / FILE} is made anew from the run directories: {reason}", file=sys.stderr)


def _open_synced(home: Path) -> Index:
    for _ in range(2):
        connection: sqlite3.Connection | None = None
        try:
            connection = _connect(str(home / FILE))
            index = Index(connection, home)
            index.sync()
            return index
        except sqlite3.OperationalError:  # read-only, full, or locked for too long
            if connection is not None:
                connection.close()
            break
        except (sqlite3.DatabaseError, TypeError) as error:  # torn, or without its rows
            if connection is not None:
                connection.close()
            forget_index(home, str(error))
    index = Index(_connect(":memory:"), home, is_in_memory=True)
    index.sync()
    return index


def _connect(path: str) -> sqlite3.Connection:
    # One thread at a time uses it, not always the same.
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        if not _is_made(connection):
            _create(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _is_made(connection: sqlite3.Connection) -> bool:
    """Whether it is of this version and has every table: a version alone says nothing about a torn file."""
    query = "select count(*) from sqlite_master where type = 'table' and name in ('runs', 'views', 'folder')"
    version = connection.execute("pragma user_version").fetchone()[0]
    return version == VERSION and connection.execute(query).fetchone()[0] == 3


def _create(connection: sqlite3.Connection) -> None:
    connection.execute("pragma journal_mode = delete")
    connection.execute("begin immediate")
    try:
        if not _is_made(connection):  # nobody else was quicker
            for kind, name in connection.execute("select type, name from sqlite_master").fetchall():
                if kind == "table":
                    connection.execute(f'drop table "{name}"')
            for statement in _TABLES.split(";"):
                connection.execute(statement)
            connection.execute(f"pragma user_version = {VERSION}")
    except BaseException:
        connection.execute("rollback")
        raise
    connection.execute("commit")


def _is_sound(home: Path) -> bool:
    try:
        connection = sqlite3.connect(home / FILE, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            (answer,) = connection.execute("pragma quick_check(1)").fetchone()
            return answer == "ok" and connection.execute("select count(*) from folder").fetchone()[0] == 1
        finally:
            connection.close()
    except sqlite3.DatabaseError:
        return False
