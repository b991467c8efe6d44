"""The record itself: gaps, jumps at a resume, pace and memory."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator

from oxrl_core.diagnose.detectors import Seen, detector, seen_by
from oxrl_core.diagnose.facts import RunFacts
from oxrl_core.diagnose.trends import Point, median

JUMP = 1.8  # a factor of 2 is what a forgotten or doubled gradient accumulation makes of a loss or gradient
HASH = 12  # letters of a hash of a configuration
AROUND = 5  # steps before and after a resume
COMPARED = (
    "grad_norm", "loss", "reward/mean", "reward/std", "entropy", "kl/ref", "mask/coverage", "completion/length",
    "preference/margin", "value/loss", "num_tokens",
)  # fmt: skip
STEEPER = 2.0  # times the steepest of the other steps around it, as logarithms
# Times the median of the first third. Neighbours on a machine slow a step to twice, and every part of it alike.
SLOW, VERY_SLOW = 2.5, 5.0
OWN = 2.5  # times the next part: on a busy machine one part of a step is easily twice as late as another
SLOWER, HALF = 1.4, 0.5  # times the usual, where one part takes this share of the step and did not before
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


@detector("steps that stand twice in the record")
def repeated(facts: RunFacts) -> Iterator[Seen]:
    """Rows beyond the checkpoint are taken away when a run goes on: a step that stands twice was counted twice."""
    steps = facts.raw_steps
    twice = sorted(step for step, times in Counter(steps).items() if times > 1 and step > 0)
    back = [(one, two) for one, two in itertools.pairwise(steps) if two < one]
    if not twice and not back:
        return
    told = [seen_by("steps that stand there more than once", len(twice), twice[0] if twice else None)]
    told += [seen_by("goes back", f"from step {one} to {two}", one) for one, two in back[:3]]
    summary = f"{len(twice)} steps stand in metrics.jsonl more than once"
    summary += f", from {twice[0]} to {twice[-1]}" if twice else "; the steps are not in order"
    yield Seen("resume_gap", 0.8, summary, "warning", told)


@detector("another configuration than it was made with")
def edited(facts: RunFacts) -> Iterator[Seen]:
    """The hash of the configuration against the one of the day it was made, in a run that went on since then."""
    made, config = str(facts.spec.get("config_hash", "")), facts.config
    if config is None or len(made) < HASH or not any(event.get("code") == "resumed" for event in facts.events):
        return
    from oxrl_core.config.load import config_hash

    if config_hash(config) == made:
        return
    told = [seen_by("hash when it was made", made), seen_by("hash of config.yaml", config_hash(config))]
    summary = "config.yaml was edited since the run was made, and the run went on with it"
    yield Seen("resume_jump", 0.7, summary, "warning", told)


@detector("jumps at a resume")
def jumps(facts: RunFacts) -> Iterator[Seen]:
    for event in facts.events:
        if event.get("code") != "resumed":
            continue
        step = _step_of(event)
        for name in COMPARED:
            series = facts.series(name)
            before = [abs(value) for at, value in series if step - AROUND < at <= step]
            after = [abs(value) for at, value in series if step < at <= step + AROUND]
            if len(before) < 3 or len(after) < 3 or median(before) == 0:
                continue
            factor = median(after) / median(before)
            # Beyond the noise of the steps on either side, by a factor, and at once: not what it was doing anyway.
            apart = min(after) > max(before) or max(after) < min(before)
            at_once = abs(after[0] - before[-1]) > 0.5 * abs(median(after) - median(before))
            if apart and at_once and not 1 / JUMP < factor < JUMP:
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
    """Steps that take longer and longer, or suddenly so; which part of them does says more than that they do."""
    writing = dict(facts.series("time/write"))  # comes after a step, and is not within its seconds
    series = [(step, value + writing.get(step, 0.0)) for step, value in facts.series("seconds")][LEAK_START:]
    if len(series) < 3 * SLOW_STEPS:
        return
    values = [value for _, value in series]
    usual, now = median(values[: len(values) // 3]), median(values[-SLOW_STEPS:])
    if usual <= 0:
        return
    told = [seen_by("seconds a step, usual", usual), seen_by("seconds a step, now", now, facts.step)]
    parts: dict[str, float] = {}
    for name in ("time/generate", "time/reward", "time/train", "time/sync", "time/write"):
        part = facts.values(name)[LEAK_START:]
        if len(part) >= 3 * SLOW_STEPS and median(part[: len(part) // 3]) > 0:
            parts[name] = median(part[-SLOW_STEPS:]) / median(part[: len(part) // 3])
            told.append(seen_by(f"{name}, times the usual", parts[name], facts.step))
    # One part alone: it is the run's own. All alike: perhaps a neighbour on the machine.
    ordered = sorted(parts.values())
    is_own = len(ordered) > 1 and ordered[-1] > OWN * ordered[-2]
    worst = max(parts, key=parts.__getitem__, default="")
    # A part that was next to nothing may grow to be the half of a step that is not three times as long for it.
    is_half = is_own and parts[worst] > VERY_SLOW and median(facts.values(worst)[-SLOW_STEPS:]) > HALF * now
    if min(values[-SLOW_STEPS:]) < (SLOWER if is_half else SLOW) * usual:
        return
    if not is_own and now < VERY_SLOW * usual:
        return  # what slows the whole machine down a little is no fault of the run
    slowest = f", above all {worst}" if is_own else ""
    summary = f"steps take {now / usual:.2g} times as long as they did{slowest}"
    yield Seen("slow_step", 0.85 if is_own else 0.8, summary, "warning", told)


@detector("memory")
def memory(facts: RunFacts) -> Iterator[Seen]:
    for name in sorted(name for name in facts.names if name.startswith("memory/")):
        # Of a run that was started again only the last start: a new process begins with little.
        whole = _since_last_fall(facts.series(name)[LEAK_START:])
        # What begins to leak in the middle of a run leaks in its second half.
        series = next((part for part in (whole, whole[len(whole) // 2 :]) if _leaks(part)), None)
        if series is None:
            continue
        values = [value for _, value in series]
        grown = values[-1] - values[0]
        told = [seen_by(name, values[0], series[0][0]), seen_by(name, values[-1], series[-1][0])]
        a_step = 1024 * grown / (series[-1][0] - series[0][0])
        yield Seen("memory_leak", 0.85, f"{name} grows by {a_step:.3g} MiB a step, evenly", evidence=told)
        return


def _leaks(series: list[Point]) -> bool:
    """Whether it grows by something that counts, in each third of the steps."""
    values = [value for _, value in series]
    if len(values) < LEAK_STEPS or values[-1] - values[0] < max(LEAK_GIB, LEAK_SHARE * values[0]):
        return False
    third = (len(values) - 1) / 3
    marks = [values[round(third * part)] for part in range(4)]
    return min(two - one for one, two in itertools.pairwise(marks)) >= LEAK_STEADY * (values[-1] - values[0]) / 3


def _since_last_fall(series: list[Point]) -> list[Point]:
    """The points after the last one that is less than three quarters of the one before it."""
    falls = [at + 1 for at, (one, two) in enumerate(itertools.pairwise(series)) if two[1] < 0.75 * one[1]]
    return series[falls[-1] :] if falls else series


def _step_of(event: dict[str, object]) -> int:
    """The step that a run went on from: the name of its checkpoint says it."""
    name = str(event.get("checkpoint", ""))
    return int(name[5:]) if name[5:].isdigit() else 0
