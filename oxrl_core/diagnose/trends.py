"""The course of a metric in the few words that detectors need: where it began, where it is, how sure a change is."""

from __future__ import annotations

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
