"""A run that is suddenly where it began: weights that were lost, or read again from the beginning."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from oxrl_core.diagnose.detectors import Seen, detector, seen_by
from oxrl_core.diagnose.facts import RunFacts
from oxrl_core.diagnose.trends import Point, median
from oxrl_core.diagnose.views import Evidence

# What a measure must have come away from its beginning by, in its own units, before going back says anything.
WATCHED = {
    "entropy": 0.1, "reward/mean": 0.08, "loss": 0.1, "kl/ref": 0.02, "completion/length": 1.0,
    "preference/margin": 0.5, "value/loss": 0.02,
}  # fmt: skip
LEADING = ("entropy", "reward/mean", "loss", "preference/margin")  # one of them must go back, whatever else does
LEAST = 8  # points of a series
BEFORE = 3  # points that tell where it had come to
MOVED = 4.0  # times the usual change from step to step: what it must have come away from its beginning by
BACK, STAYS = 0.35, 0.7  # of that way: what may be left of it at once, and one step later
AT_ONCE = 0.5  # of that way, from one point to the next


@detector("a run that is where it began")
def relapsed(facts: RunFacts) -> Iterator[Seen]:
    """Several measures go back to their first values in the same step, from which they had come far away."""
    steps: dict[int, list[str]] = {}
    resumed = {_checkpoint(event) for event in facts.events if event.get("code") == "resumed"}
    for name, least in WATCHED.items():
        if name == "loss" and facts.is_rl:
            continue  # of a loss that is about 0 by nature
        for step in _relapses(facts.series(name), least):
            steps.setdefault(step, []).append(name)
    for step in sorted(steps):
        names = sorted({*steps[step], *steps.get(step + 1, [])}, key=list(WATCHED).index)
        if len(names) < 2 or not any(name in LEADING for name in names) or {step - 1, step - 2} & resumed:
            continue
        told: list[Evidence] = []
        for name in names:
            series = dict(facts.series(name))
            first = min(series)
            told.append(seen_by(f"{name} at first", series[first], first))
            told.append(seen_by(f"{name} before", series.get(step - 1), step - 1))
            told.append(seen_by(f"{name} then", series.get(step), step))
        summary = (
            f"at step {step} {' and '.join(names[:3])} are where they were at the beginning: what was learned is lost"
        )
        advice = f"look at what wrote the weights at step {step - 1}: a model that was loaded or initialised anew"
        cause = "reward_falls" if facts.is_rl else "diverged"
        yield Seen(cause, 0.88, summary, evidence=told, next=advice, before=step)
        return


def _relapses(series: Sequence[Point], least: float) -> list[int]:
    """Steps at which a series is suddenly back where it began."""
    values = [value for _, value in series]
    if len(values) < LEAST:
        return []
    usual = median([abs(two - one) for one, two in itertools.pairwise(values)])
    found: list[int] = []
    start = sum(values[:2]) / 2
    for place in range(BEFORE, len(values) - 1):
        way = median(values[place - BEFORE : place]) - start
        is_far = abs(way) > max(MOVED * usual, 0.05 * abs(start), least)
        is_back = abs(values[place] - start) < BACK * abs(way) and abs(values[place + 1] - start) < STAYS * abs(way)
        if is_far and is_back and abs(values[place] - values[place - 1]) > AT_ONCE * abs(way):
            found.append(series[place][0])
    return found


def _checkpoint(event: dict[str, object]) -> int:
    name = str(event.get("checkpoint", ""))[5:]
    return int(name) if name.isdigit() else -1
