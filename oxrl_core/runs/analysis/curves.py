"""Metrics as curves: what belongs together, and how a long curve is made short without losing its spikes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

# Heading -> beginnings of the names below it; the first that fits takes a metric.
GROUPS = {
    "Reward and evaluation": ("reward/", "eval/", "preference/", "score/"),
    "Loss and optimizer": ("loss", "lr", "grad_norm", "update/", "skipped", "value/", "critic/"),
    "Policy": ("entropy", "kl/", "ratio/", "gap/", "sync/", "staleness", "policy_version", "mask/", "mismatch/"),
    "Completions": ("completion/", "groups/", "selection/", "pairs/"),
    "Time and throughput": ("time/", "seconds", "tokens_per_second", "num_tokens"),
    "Data": ("data/",),
}
OTHERS = "More"
# What says most about a run, most telling first.
KEY_METRICS = (
    "reward/mean", "eval/reward", "eval/accuracy", "loss", "eval/loss", "preference/accuracy", "entropy", "kl/ref",
    "completion/length", "completion/truncated", "grad_norm", "tokens_per_second",
)  # fmt: skip
# More is better, less is better; of all other metrics neither can be said.
BETTER_UP = ("reward/mean", "eval/reward", "eval/accuracy", "preference/accuracy")
BETTER_DOWN = ("eval/loss",)
BETTER_DOWN_WITHOUT_REWARD = "loss"  # with a reward it is a direction to go, not a distance

Row = Mapping[str, Any]
Points = list[tuple[int, float | None]]


def group_of(name: str) -> str:
    """The heading that a metric stands under."""
    return next((heading for heading, starts in GROUPS.items() if name.startswith(starts)), OTHERS)


def metric_names(rows: Sequence[Row]) -> list[str]:
    """The metrics of some rows: by heading, the most telling first, as they came otherwise."""
    names = list(dict.fromkeys(name for row in rows for name in row if name not in ("step", "time")))
    headings = [*GROUPS, OTHERS]
    key = {name: place for place, name in enumerate(KEY_METRICS)}
    return sorted(names, key=lambda name: (headings.index(group_of(name)), key.get(name, len(key))))


def direction_of(name: str, rows: Sequence[Row]) -> int:
    """1 where more of a metric is better, -1 where less is, 0 where neither can be said."""
    if name in BETTER_UP:
        return 1
    if name == BETTER_DOWN_WITHOUT_REWARD:
        return 0 if any("reward/mean" in row for row in rows) else -1
    return -1 if name in BETTER_DOWN else 0


def points_of(rows: Sequence[Row], name: str) -> Points:
    """Step and value wherever the metric was written; None where it was not finite."""
    points: Points = []
    for row in rows:
        if name in row:
            value = row[name]
            good = isinstance(value, int | float) and math.isfinite(value)
            points.append((int(row["step"]), float(value) if good else None))
    return points


def shortened(points: Points, most: int) -> Points:
    """At most about `most` points: of each stretch its least, its greatest and one that is not finite."""
    if len(points) <= most or most < 4:
        return points
    num_stretches = most // 3
    kept: set[int] = {0, len(points) - 1}
    for stretch in range(num_stretches):
        places = range(stretch * len(points) // num_stretches, (stretch + 1) * len(points) // num_stretches)
        numbers = [(value, place) for place in places if (value := points[place][1]) is not None]
        if numbers:
            kept |= {min(numbers)[1], max(numbers)[1]}
        if len(numbers) < len(places):
            kept.add(next(place for place in places if points[place][1] is None))
    return [points[place] for place in sorted(kept)]


def rounded(value: float | None) -> float | None:
    """Six significant digits: more cannot be seen in a picture."""
    return None if value is None else float(f"{value:.6g}")
