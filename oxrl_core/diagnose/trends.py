"""The course of a metric in the few words that detectors need: where it began, where it is, how sure a change is."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Point = tuple[int, float]  # step, value


@dataclass(frozen=True)
class Trend:
    """First and last third of a series."""

    first: float
    last: float
    low: float
    high: float
    deviations: float  # the change in standard errors of both means; 0 where nothing varies
    steps: int  # points

    @property
    def change(self) -> float:
        return self.last - self.first

    @property
    def rises(self) -> bool:
        """It rose by more than chance: with 3 standard errors one of 700 noisy series would look so."""
        return self.deviations > 3

    @property
    def falls(self) -> bool:
        """It fell by more than chance."""
        return self.deviations < -3


def trend(points: Sequence[Point]) -> Trend | None:
    """The trend of a series of at least six points; None for a shorter one."""
    if len(points) < 6:
        return None
    third = len(points) // 3
    values = [value for _, value in points]
    early, late = values[:third], values[-third:]
    first, last = statistics.fmean(early), statistics.fmean(late)
    error = math.sqrt(_variance(early) / len(early) + _variance(late) / len(late))
    if error > 0:
        deviations = (last - first) / error
    else:
        deviations = 0.0 if last == first else math.copysign(99.0, last - first)
    return Trend(first, last, min(values), max(values), deviations, len(values))


@dataclass(frozen=True)
class Jump:
    """Where a series goes from one level to another between two neighbouring points."""

    step: int  # the first one on the new level
    before: float
    after: float
    clearness: float  # the change over the wider of the two levels

    @property
    def change(self) -> float:
        return self.after - self.before


JUMP_AROUND = 5  # points on either side that tell a level
JUMP_LEAST = 3  # fewer are no level
JUMP_AT_ONCE = 0.5  # of the change, between the two points: less is a slope


def jump(points: Sequence[Point], least: float = 3.0) -> Jump | None:
    """The clearest jump of a series, at least so many times as large as the levels are wide; None where it has none.

    With five values of pure noise on either side one of 250 places would have them apart at all.
    """
    best: Jump | None = None
    values = [value for _, value in points]
    for place in range(JUMP_LEAST, len(values) - JUMP_LEAST + 1):
        before, after = values[max(0, place - JUMP_AROUND) : place], values[place : place + JUMP_AROUND]
        found = _jump_between(before, after, points[place][0])
        if found and found.clearness >= least and (best is None or found.clearness > best.clearness):
            best = found
    return best


def leap(points: Sequence[Point], least: float = 3.0) -> Jump | None:
    """The largest change from one point to the next, where it is so many times any other and does not go back at once.

    Unlike a jump it says nothing of the levels: what was lost at a stroke may be learned anew from there on.
    """
    if len(points) < 4 * JUMP_LEAST:
        return None
    values = [value for _, value in points]
    changes = [two - one for one, two in itertools.pairwise(values)]
    place = max(range(len(changes)), key=lambda at: abs(changes[at]))
    if not JUMP_LEAST <= place + 1 <= len(values) - JUMP_LEAST:
        return None
    others = [abs(change) for at, change in enumerate(changes) if abs(at - place) > 2]
    before, after = values[place - JUMP_LEAST + 1 : place + 1], values[place + 1 : place + 1 + JUMP_LEAST]
    low, high = statistics.median(before), statistics.median(after)
    times = abs(changes[place]) / max(*others, 1e-12)
    if times < least or (high - low) * changes[place] <= 0 or abs(high - low) < JUMP_AT_ONCE * abs(changes[place]):
        return None
    return Jump(points[place + 1][0], low, high, times)


def _jump_between(before: Sequence[float], after: Sequence[float], step: int) -> Jump | None:
    if min(after) <= max(before) and max(after) >= min(before):
        return None
    low, high = statistics.median(before), statistics.median(after)
    if abs(after[0] - before[-1]) < JUMP_AT_ONCE * abs(high - low):
        return None
    width = max(max(before) - min(before), max(after) - min(after), 1e-3 * max(abs(low), abs(high)), 1e-12)
    return Jump(step, low, high, abs(high - low) / width)


def median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else math.nan


def longest_end(points: Sequence[Point], holds: Callable[[float], bool]) -> int:
    """How many of the last points hold without a break."""
    count = 0
    for _, value in reversed(points):
        if not holds(value):
            break
        count += 1
    return count


def correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Pearson's correlation; 0 where one side does not vary."""
    if len(pairs) < 3:
        return 0.0
    xs, ys = [x for x, _ in pairs], [y for _, y in pairs]
    if len(set(xs)) == 1 or len(set(ys)) == 1:
        return 0.0
    return statistics.correlation(xs, ys)


def _variance(values: Sequence[float]) -> float:
    return statistics.variance(values) if len(values) > 1 else 0.0
