"""How often: calls a second of one server, launches an hour of all servers of a home. An agent in a loop is told so."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from oxrl_core.errors import MachineError

BURST_SECONDS = 10.0  # calls of so many seconds may come at once
HOUR = 3600.0
LOCK_SECONDS = 10.0


class CallRate:
    """A bucket that fills with `per_second` calls a second and holds those of ten seconds."""

    def __init__(self, per_second: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._clock = clock
        self._most = self._left = max(1.0, (per_second or 0.0) * BURST_SECONDS)
        self._seen = clock()

    def seconds_to_wait(self) -> float:
        """0 where a call may be made now, which is counted; else how long until one may."""
        if self._per_second is None:
            return 0.0
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._seen) * self._per_second)
        self._seen = now
        if self._left >= 1:
            self._left -= 1
            return 0.0
        return (1 - self._left) / self._per_second


def count_launch(home: Path, per_hour: float | None) -> float:
    """The time of a launch that is counted now, for all servers of the home; raises where it would be one too many."""
    with _launches(home) as times:
        now = time.time()
        if per_hour is not None and len(times) >= per_hour:
            free = sorted(times)[-max(1, int(per_hour))] + HOUR
            raise MachineError(
                f"{len(times)} launches in the last hour, this server allows {per_hour:g}",
                "OXRL_MCP_LAUNCHES_PER_HOUR",
                f"wait {max(1, round((free - now) / 60))} min; list_runs shows what was started, compare_runs what it "
                "came to",
            )
        times.append(now)
        return now


def forget_launch(home: Path, counted: float) -> None:
    """Takes back a launch that came to nothing."""
    with _launches(home) as times:
        if counted in times:
            times.remove(counted)


@contextmanager
def _launches(home: Path) -> Generator[list[float]]:
    """When something was launched in the last hour; what is changed in the list is kept."""
    from oxrl_core.runs.records import file_lock, read_json, write_json

    file, now = home / ".launches.json", time.time()
    with file_lock(home / ".launches.count.lock", LOCK_SECONDS):
        kept = (read_json(file) or {}).get("times")
        found = cast("list[object]", kept) if isinstance(kept, list) else []
        times = [one for one in found if isinstance(one, float) and now - HOUR < one <= now]
        yield times
        write_json(file, {"times": times})
