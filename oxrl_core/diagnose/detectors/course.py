"""The record itself: gaps, jumps at a resume, pace and memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from oxrl_core.diagnose.detectors import Seen, detector, seen_by
from oxrl_core.diagnose.facts import RunFacts
from oxrl_core.diagnose.trends import median

JUMP = 1.8  # a factor of 2 is what a forgotten or doubled gradient accumulation makes of a loss or gradient
AROUND = 5  # steps before and after a resume
SLOW = 5.0  # times the median step of the run
SLOW_STEPS = 5  # in a row: one slow step is an evaluation or a checkpoint
LEAK_STEPS, LEAK_SHARE = 20, 0.02  # memory that grows by 2 % a step for 20 steps


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
        series = facts.series(name)[-LEAK_STEPS - 1 :]
        if len(series) <= LEAK_STEPS:
            continue
        growth = [two[1] / one[1] - 1 if one[1] > 0 else 0.0 for one, two in itertools.pairwise(series)]
        if all(share > LEAK_SHARE for share in growth):
            told = [seen_by(name, series[0][1], series[0][0]), seen_by(name, series[-1][1], series[-1][0])]
            yield Seen("memory_leak", 0.85, f"{name} grows by {median(growth):.0%} a step", evidence=told)
            return


def _step_of(event: dict[str, object]) -> int:
    """The step that a run went on from: the name of its checkpoint says it."""
    name = str(event.get("checkpoint", ""))
    return int(name[5:]) if name[5:].isdigit() else 0
