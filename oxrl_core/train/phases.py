"""What the driver is doing now, said to whoever watches it. A driver process has one run: there is one listener."""

from __future__ import annotations

from collections.abc import Callable

PHASES = {  # a stretch of a step, as the clock names it -> the phase of the run
    "time/generate": "generating",
    "time/reward": "rewarding",
    "time/train": "training",
    "time/sync": "syncing",
    "time/wait": "generating",  # drawn ahead, and not done yet
}
_listeners: list[Callable[[str], None]] = []


def tell_phases(listener: Callable[[str], None] | None) -> None:
    """From now on this one hears of every phase; None: nobody does."""
    _listeners[:] = [] if listener is None else [listener]


def enter_phase(name: str) -> None:
    """Says that the driver is in this phase from now on. Each has its own limit before it counts as stalled."""
    for listener in _listeners:
        listener(PHASES.get(name, name))
