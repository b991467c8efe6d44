"""Following a run until something happens."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from oxrl_core.api.views import alerts_of, view_of
from oxrl_core.errors import ConfigError
from oxrl_core.runs import launch
from oxrl_core.runs.rundir import RunDir, oxrl_home
from oxrl_core.runs.views import Alert, RunView

Until = Literal["progress", "end"]
_POLL_SECONDS = 0.25
_REFRESH_SECONDS = 2.0  # a death leaves no trace in the files: look at the processes this often


async def watch_run(
    run_id: str,
    *,
    until: Until = "end",
    wait_seconds: float = 45.0,
    cursor: str = "",
    home: Path | None = None,
) -> RunView:
    """The run as soon as something is worth waking up for, at the latest after `wait_seconds`; never an error for that.

    That is: it ended, a new alert, its supervisor died, it stalled; and with `until="progress"` a new step or phase.
    With the cursor of an earlier view, "new" means since that view; without one, since this call.
    """
    import asyncio  # 40 ms, which no other operation needs to pay

    run = launch.find_run(home or oxrl_home(), run_id)
    began = time.monotonic()
    view = view_of(run, run.status())
    seen = _parse_cursor(cursor or view.cursor)
    signature, looked_at = _signature(run), began
    while True:
        if _is_news(view, seen, until) or time.monotonic() - began >= wait_seconds:
            if cursor:
                view.alerts = alerts_of(run, seen.events_size)
            view.waited_seconds = round(time.monotonic() - began, 3)
            return view
        await asyncio.sleep(min(_POLL_SECONDS, max(0.0, began + wait_seconds - time.monotonic())))
        new_signature, now = _signature(run), time.monotonic()
        if new_signature != signature or now - looked_at > _REFRESH_SECONDS or now - began >= wait_seconds:
            signature, looked_at = new_signature, now
            view = view_of(run, run.status())


def follow(run_id: str, *, refresh_seconds: float = 1.0, home: Path | None = None) -> Iterator[RunView]:
    """Views of a run until it has ended: at once, at every change, and at least every `refresh_seconds`."""
    run = launch.find_run(home or oxrl_home(), run_id)
    while True:
        signature, looked_at = _signature(run), time.monotonic()
        view = view_of(run, run.status())
        yield view
        if view.has_ended:
            return
        while _signature(run) == signature and time.monotonic() - looked_at < refresh_seconds:
            time.sleep(min(_POLL_SECONDS, refresh_seconds))


class _Seen:
    """What the holder of a cursor knows."""

    def __init__(self, state: str, phase: str, step: int, events_size: int) -> None:
        self.state, self.phase, self.step, self.events_size = state, phase, step, events_size


def _parse_cursor(cursor: str) -> _Seen:
    try:
        state, step, events_size, phase = cursor.split("/", 3)
        return _Seen(state, phase, int(step), int(events_size))
    except ValueError:
        raise ConfigError(
            f"{cursor!r} is not a cursor of a run", "cursor", "leave it out, or pass one as given"
        ) from None


def _is_news(view: RunView, seen: _Seen, until: Until) -> bool:
    if view.has_ended:
        return True
    now = _parse_cursor(view.cursor)
    if now.state != seen.state and view.state in ("orphaned", "stalled"):
        return True
    if until == "progress" and (now.state, now.phase, now.step) != (seen.state, seen.phase, seen.step):
        return True
    return now.events_size > seen.events_size and any(_alerts_after(view, seen))


def _alerts_after(view: RunView, seen: _Seen) -> Iterator[Alert]:
    yield from alerts_of(RunDir(view.path), seen.events_size)


def _signature(run: RunDir) -> tuple[tuple[int, int], ...]:
    """Changes when a file that a view is made of changes."""
    marks: list[tuple[int, int]] = []
    for name in ("status.json", "progress.json", "events.jsonl"):
        try:
            info = (run.path / name).stat()
            marks.append((info.st_mtime_ns, info.st_size))
        except OSError:
            marks.append((0, 0))
    return tuple(marks)
