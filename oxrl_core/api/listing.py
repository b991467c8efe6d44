"""All runs of a home: the list, its index, and the runs that have lost their supervisor."""

from __future__ import annotations

import functools
import re
import sqlite3
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from oxrl_core.api.views import timestamp, view_of
from oxrl_core.errors import ConfigError, NotFoundError
from oxrl_core.runs import launch, process
from oxrl_core.runs.index import FINAL_STATES, Index, IndexRow, forget_index, mark_of, open_index
from oxrl_core.runs.records import read_json
from oxrl_core.runs.rundir import RunDir, oxrl_home
from oxrl_core.runs.status import FindMembers
from oxrl_core.runs.views import IndexReport, RunList, RunView

MANY = 64  # rows that are read at a time where most of them may not be wanted
_AGE = re.compile(r"(\d{1,6})([mhdw])")
_UNITS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}
MOST_KEPT = 128  # views of runs that ended, by folder, with the mark of the record that each was made of
_kept_views: dict[str, tuple[str, RunView]] = {}


def list_runs(
    *,
    state: str = "",
    kind: str = "",
    name: str = "",
    since: str = "",
    limit: int = 50,
    cursor: str = "",
    home: Path | None = None,
) -> RunList:
    """Runs, newest first, without their alerts. `state` is one state, or `active` for those that have not ended.
    A view of a run that ended may be given again: copy what you want to change.

    `name` is a part of the name or of the run_id; `since` is a time (2026-11-21, 2026-11-21T08:00Z) or an age (7d).
    """
    home = home or oxrl_home()
    wanted = Wanted(state, kind, name.lower(), _moment(since) if since else "")
    try:
        return _list(home, wanted, limit, cursor)
    except sqlite3.DatabaseError as error:  # a page of it is torn, which only who reads that page can see
        forget_index(home, str(error))
        return _list(home, wanted, limit, cursor)


@dataclass(frozen=True)
class Wanted:
    """Which runs are asked for; what is empty asks for nothing."""

    state: str = ""
    kind: str = ""
    name: str = ""
    since: str = ""  # as RunView.created_at writes it

    def is_met(self, view: RunView) -> bool:
        """Whether the run is one of them."""
        state = not self.state or view.state == self.state or (self.state == "active" and not view.has_ended)
        name = not self.name or self.name in view.name.lower() or self.name in view.run_id.lower()
        return state and name and self.kind in ("", view.kind) and self.since <= view.created_at


def _moment(since: str) -> str:
    """The time as views write it."""
    age = _AGE.fullmatch(since.strip())
    try:
        if age is not None:
            return timestamp(time.time() - int(age[1]) * _UNITS[age[2]])
        moment = datetime.fromisoformat(since.strip())
        return timestamp((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError, OSError):
        raise ConfigError(f"{since[:40]!r} is no time", "since", "write 24h, 7d, or a date like 2026-11-21") from None


def _list(home: Path, wanted: Wanted, limit: int, cursor: str) -> RunList:
    with open_index(home) as index:
        few = limit + 1 if wanted == Wanted(wanted.state) else MANY
        pages = index.pages(wanted.state, cursor, few)
        if pages is None:
            raise NotFoundError(f"{cursor!r} is not a cursor of list_runs", "cursor", "start again without a cursor")
        total = index.count()
        views: list[RunView] = []
        for view in _views(index, pages, home):
            if not wanted.is_met(view):
                continue
            if len(views) == limit:
                return RunList(runs=views, total=total, next_cursor=views[-1].run_id)
            views.append(view)
    return RunList(runs=views, total=total)


def _views(index: Index, pages: Iterator[list[IndexRow]], home: Path) -> Iterator[RunView]:
    """Each run as it is now. What ended is taken from the index, where its record is still the same file."""
    members = functools.cache(process.members_by_run)  # one scan of /proc for the whole list, where one is needed
    ended: list[tuple[IndexRow, str]] = []
    runs = str(home / "runs")
    try:
        for page in pages:
            known = _known_views(index, page, runs)
            for row in page:
                view = known.get(row.run_id)
                if view is None:
                    folder = f"{runs}/{row.run_id}"
                    mark = mark_of(folder)
                    view = _look(Path(folder), members)
                    if view is None:
                        continue  # removed a moment ago
                    if view.state in FINAL_STATES and mark == mark_of(folder) != "":
                        ended.append((IndexRow(row.run_id, row.born, view.state, mark), view.model_dump_json()))
                yield view
    finally:
        try:
            index.remember(ended)
        except sqlite3.Error as error:
            print(f"oxrl: the index of the runs could not be written: {error}", file=sys.stderr)


def _known_views(index: Index, page: list[IndexRow], runs: str) -> dict[str, RunView]:
    """The runs of a page that ended, and whose record is still the file that their view was made of."""
    marks = {row.run_id: row.mark for row in page if row.mark and row.mark == mark_of(f"{runs}/{row.run_id}")}
    found: dict[str, RunView] = {}
    for run_id, mark in marks.items():
        kept = _kept_views.get(f"{runs}/{run_id}")
        if kept is not None and kept[0] == mark:
            found[run_id] = kept[1]
    unread = [run_id for run_id in marks if run_id not in found]
    for run_id, (mark, text) in index.views(unread).items() if unread else ():
        try:
            view = RunView.model_validate_json(text)
        except ValidationError:
            continue  # of another version of oxRL
        if mark == marks[run_id]:
            if len(_kept_views) >= MOST_KEPT:
                _kept_views.clear()
            found[run_id], _kept_views[f"{runs}/{run_id}"] = view, (mark, view)
    return found


def _look(folder: Path, members: FindMembers) -> RunView | None:
    run = RunDir(folder)
    try:
        return view_of(run, run.status(members), with_alerts=False)
    except NotFoundError:
        return None


def rebuild_index(*, home: Path | None = None) -> IndexReport:
    """The index of the home, made anew from the run directories, and what could not be read there."""
    home = home or oxrl_home()
    forget_index(home)
    with open_index(home) as index:
        views = list(_views(index, index.pages() or iter(()), home))
    unreadable = [
        str(path)
        for view in views
        for path in (Path(view.path) / name for name in ("status.json", "progress.json"))
        if path.exists() and read_json(path) is None
    ]
    ended = sum(view.state in FINAL_STATES for view in views)
    return IndexReport(path=str(home / "index.db"), runs=len(views), ended=ended, unreadable=unreadable)


def adopt_run(run_id: str, *, home: Path | None = None) -> RunView:
    """The run under a new supervisor: an orphaned one goes on as it is, a lost one from its last checkpoint."""
    run = launch.find_run(home or oxrl_home(), run_id)
    return view_of(run, launch.adopt(run))


def adopt_orphans(*, home: Path | None = None) -> list[str]:
    """The ids of the runs of this machine whose supervisor had died, and which have another one now."""
    home = home or oxrl_home()
    try:
        unfinished = _unfinished(home)
    except sqlite3.DatabaseError as error:  # an index is no reason for a launch to fail
        forget_index(home, str(error))
        unfinished = _unfinished(home)
    return launch.adopt_orphans(home, unfinished)


def _unfinished(home: Path) -> list[str]:
    with open_index(home) as index:
        return [row.run_id for page in index.pages("active") or () for row in page]
