"""The record itself: gaps, jumps at a resume, pace and memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from oxrl_core.diagnose.detectors import Seen, detector, seen_by
from oxrl_core.diagnose.facts import RunFacts
from oxrl_core.diagnose.trends import Point, median

JUMP = 1.8  # a factor of 2 is what a forgotten or doubled gradient accumulation makes of a loss or gradient
AROUND = 5  # steps before and after a resume
STEEPER = 2.0  # times the steepest of the other steps around it, as logarithms
SLOW = 5.0  # times the median step of the run
SLOW_STEPS = 5  # in a row: one slow step is an evaluation or a checkpoint
LEAK_STEPS = 20
LEAK_START = 3  # steps in which everything is allocated for the first time
LEAK_GIB, LEAK_SHARE = 0.0625, 0.1  # what it must have grown by: less is the allocator's own to and fro
LEAK_STEADY = 0.5  # each third of the steps grows by at least this share of an even third: a plateau is no leak


@detector("gaps in the record")
def gaps(facts: RunFacts) -> Iterator[Seen]:
    steps = [int(row["step"]) for row in facts.rows]
    every = int(facts.setting("report.metrics_every", 1) or 1)
    holes = [(one, two) for one, two in itertools.pairwise(steps) if two - one > every]
    if holes:
        told = [seen_by("steps missing between", f"{one} and {two}", one) for one, two in holes[:3]]
        summary = f"{sum(two - one - 1 for one, two in holes)} steps are missing in metrics.jsonl"
        yield Seen("resume_gap", 0.8, summary, "warning", told)


@detector("jumps at a resume")
def jumps(facts: RunFacts) -> Iterator[Seen]:
    for event in facts.events:
        if event.get("code") != "resumed":
            continue
        step = _step_of(event)
        for name in ("grad_norm", "loss"):
            series = facts.series(name)
            before = [abs(value) for at, value in series if step - AROUND < at <= step]
            after = [abs(value) for at, value in series if step < at <= step + AROUND]
            if len(before) < 3 or len(after) < 3 or median(before) == 0:
                continue
            factor = median(after) / median(before)
            # Beyond the noise of the steps on either side, and by a factor.
            apart = min(after) > max(before) or max(after) < min(before)
            if apart and not 1 / JUMP < factor < JUMP:
                told = [
                    seen_by(f"{name} before", median(before), step),
                    seen_by(f"{name} after", median(after), step + 1),
                ]
                summary = f"{name} is {factor:.2g} times what it was before the resume at step {step}"
                yield Seen("resume_jump", 0.8, summary, evidence=told)
                return


@detector("the learning rate over a resume")
def rates(facts: RunFacts) -> Iterator[Seen]:
    """A rate that jumps where the run went on: schedules move in small steps."""
    series = facts.series("lr")
    for event in facts.events:
        if event.get("code") != "resumed":
            continue
        step = _step_of(event)
        near = [point for point in series if step - AROUND < point[0] <= step + AROUND and point[1] > 0]
        jumps = {two[0]: two[1] / one[1] for one, two in itertools.pairwise(near)}
        behind = next((at for at in sorted(jumps) if at > step), None)
        if behind is None or 1 / JUMP < jumps[behind] < JUMP:
            continue
        others = [abs(math.log(factor)) for at, factor in jumps.items() if at != behind]
        # A warm-up doubles in its second step, and the last steps of a cosine halve: then its neighbours do so too.
        if not others or abs(math.log(jumps[behind])) < STEEPER * max(others):
            continue
        before, after = [value for at, value in near if at < behind][-1], dict(near)[behind]
        told = [seen_by("lr before", before, step), seen_by("lr after", after, behind)]
        asked = float(facts.setting("train.lr", 0.0) or 0.0)
        summary = f"the learning rate is {jumps[behind]:.3g} times what it was before the resume at step {step}"
        advice = "somebody edited train.lr or its schedule between two starts; go on with the one it had"
        numbers = {"lr": f"{asked / jumps[behind]:.4g}"}
        yield Seen("resume_jump", 0.9, summary, evidence=told, next=advice, numbers=numbers, before=step + 1)
        return


@detector("pace")
def pace(facts: RunFacts) -> Iterator[Seen]:
    series = facts.series("seconds")
    if len(series) < 4 * SLOW_STEPS:
        return
    usual = median([value for _, value in series[: -2 * SLOW_STEPS]])
    last = [value for _, value in series[-SLOW_STEPS:]]
    if usual > 0 and min(last) > SLOW * usual:
        told = [seen_by("seconds a step, usual", usual), seen_by("seconds a step, now", median(last), facts.step)]
        for name in ("time/generate", "time/reward", "time/train", "time/sync"):
            values = facts.values(name)
            if len(values) > SLOW_STEPS and median(values[-SLOW_STEPS:]) > SLOW * median(values[:-SLOW_STEPS]):
                told.append(seen_by(name, median(values[-SLOW_STEPS:]), facts.step))
        yield Seen(
            "slow_step", 0.8, f"steps take {median(last) / usual:.0f} times as long as they did", "warning", told
        )


@detector("memory")
def memory(facts: RunFacts) -> Iterator[Seen]:
    for name in sorted(name for name in facts.names if name.startswith("memory/")):
        # Of a run that was started again only the last start: a new process begins with little.
        series = _since_last_fall(facts.series(name)[LEAK_START:])
        if len(series) < LEAK_STEPS:
            continue
        values = [value for _, value in series]
        grown, third = values[-1] - values[0], (len(values) - 1) / 3
        if grown < max(LEAK_GIB, LEAK_SHARE * values[0]):
            continue
        marks = [values[round(third * part)] for part in range(4)]
        if min(two - one for one, two in itertools.pairwise(marks)) < LEAK_STEADY * grown / 3:
            continue
        told = [seen_by(name, values[0], series[0][0]), seen_by(name, values[-1], series[-1][0])]
        a_step = 1024 * grown / (series[-1][0] - series[0][0])
        yield Seen("memory_leak", 0.85, f"{name} grows by {a_step:.3g} MiB a step, evenly", evidence=told)
        return


def _since_last_fall(series: list[Point]) -> list[Point]:
    """The points after the last one that is less than three quarters of the one before it."""
    falls = [at + 1 for at, (one, two) in enumerate(itertools.pairwise(series)) if two[1] < 0.75 * one[1]]
    return series[falls[-1] :] if falls else series


def _step_of(event: dict[str, object]) -> int:
    """The step that a run went on from: the name of its checkpoint says it."""
    name = str(event.get("checkpoint", ""))
    return int(name[5:]) if name[5:].isdigit() else 0
