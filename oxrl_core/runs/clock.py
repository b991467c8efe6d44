"""Time that can be trusted: seconds between two moments, whatever somebody does to the clock on the wall.

A stamp holds the wall clock, for people, and the machine's own clock, for arithmetic. The latter is the same for all
processes of one boot, never jumps, and stands still while the machine sleeps: a night in standby is no stall.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from oxrl_core.runs.process import boot_id


def stamp() -> dict[str, Any]:
    """This moment."""
    return {"time": time.time(), "monotonic": time.monotonic(), "boot": boot_id()}


def seconds_since(moment: Mapping[str, Any]) -> float:
    """Seconds from a stamp to now, never negative; by the wall clock where it was taken in another boot or machine."""
    if moment.get("boot") == boot_id() and moment.get("monotonic") is not None:
        return max(0.0, time.monotonic() - float(moment["monotonic"]))
    return max(0.0, time.time() - float(moment.get("time") or 0.0))


def is_before(moment: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether a stamp was taken before another."""
    key = "monotonic" if moment.get("boot") is not None and moment.get("boot") == other.get("boot") else "time"
    return float(moment.get(key) or 0.0) < float(other.get(key) or 0.0)
