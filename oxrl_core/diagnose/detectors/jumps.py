"""What changes all at once in the middle of a run: verdicts, rates, masks, losses. A policy changes step by step."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from oxrl_core.diagnose.detectors import Seen, detector, seen_by
from oxrl_core.diagnose.detectors.relapse import relapsed
from oxrl_core.diagnose.facts import RunFacts
from oxrl_core.diagnose.samples import commonest
from oxrl_core.diagnose.trends import jump, leap, longest_end, median

# A level over the width of the levels: rewards of a healthy run that learns quickly stay below 3 from step to step.
CLEAR = 3.0
APART = 0.15  # of the largest reward: what verdicts must differ by
AT_ONCE = 1  # steps between two jumps that are one event
CONSTANT_STEPS, VARIED = 5, 10  # steps of one reward; different texts that got it
SUCCESS = 0.7  # of full marks in the steps before: then full marks are what it came to by itself
GIVEN_UP = 0.3  # of what it had at first; and of full marks, so that there was something to lose
RATE_JUMP = 3.0  # schedules move by less: a warm-up of ten steps doubles once
WARM = 5  # first steps, in which everything moves
MASK_JUMP = 1.4  # rows of a kind have like masks; batches of other lengths differ by a tenth
WORSE = 1.3  # times the loss before it
LEAPT = 0.2  # of the entropy before it


@detector("verdicts that change all at once")
def verdicts(facts: RunFacts) -> Iterator[Seen]:
    """The reward goes to another level while the policy stays what it was: the verifier, or the prompts, changed."""
    found = jump(facts.series("reward/mean"), CLEAR)
    if found is None or _resumed_at(facts, found.step) or _changed(facts, found.step):
        return
    largest = max((abs(sample.score or 0.0) for sample in facts.samples.all() if sample.has_verdict), default=1.0)
    if abs(found.change) < APART * max(largest, 1e-9):
        return
    told = [seen_by("reward/mean before", found.before, found.step - 1)]
    told.append(seen_by("reward/mean after", found.after, found.step))
    entropy = dict(facts.series("entropy"))
    if found.step in entropy and found.step - 1 in entropy:
        told.append(seen_by("entropy before", entropy[found.step - 1], found.step - 1))
        told.append(seen_by("entropy after", entropy[found.step], found.step))
    summary = f"at step {found.step} the reward goes from {found.before:.3g} to {found.after:.3g} at once, while the "
    summary += "policy hardly changes: the verdicts are others, or the prompts"
    cause = "reward_falls" if found.change < 0 else "reward_inconsistent"
    advice = (
        f"score completions of steps {found.step - 1} and {found.step} again by hand (`oxrl rollouts`, `oxrl score`)"
    )
    yield Seen(cause, 0.85, summary, evidence=told, next=advice, before=found.step)


@detector("rewards that become constant")
def constant_since(facts: RunFacts) -> Iterator[Seen]:
    """From some step on every completion gets the same, although the completions differ."""
    spread, means = facts.series("reward/std"), dict(facts.series("reward/mean"))
    count = longest_end(spread, lambda value: abs(value) < 1e-12)
    if count < CONSTANT_STEPS or len(spread) - count < CONSTANT_STEPS:
        return  # of a run that was so from the beginning another detector speaks
    since = spread[-count][0]
    values = {round(means.get(step, 0.0), 9) for step, _ in spread[-count:]}
    late = [sample for sample in facts.samples.late() if sample.has_verdict and sample.step >= since]
    if len(values) != 1 or len({sample.completion for sample in late}) < VARIED or commonest(late)[1] > 0.5:
        return
    value = values.pop()
    before = median([means.get(step, 0.0) for step, _ in spread[-count - CONSTANT_STEPS : -count]])
    earlier = [sample.score or 0.0 for sample in facts.samples.all() if sample.has_verdict and sample.step < since]
    best = max([*earlier, value])
    if value >= best and before > SUCCESS * best:
        return
    start = median([mean for _, mean in sorted(means.items())[:3]])
    last = median([means.get(step, 0.0) for step, _ in spread[-count - 2 : -count]])
    if last < GIVEN_UP * start and start > GIVEN_UP * best:
        # Step by step, until nothing was left: the verdicts were right, and it was led away from what they say.
        told = [seen_by("reward/mean of the first steps", start, 1), seen_by("reward of every completion since", value,
                since, [sample.name for sample in late[:3]])]  # fmt: skip
        summary = f"the reward falls from {start:.3g} to {value:g}, where every completion is since step {since}"
        advice = "look at the sign: of the advantages, or at which completion of a pair is the better one"
        yield Seen("reward_falls", 0.95, summary, evidence=told, next=advice, before=1)
        return
    cause = "reward_zero" if value == 0 else "reward_full" if value >= best else "reward_constant"
    told = [seen_by("reward of every completion since", value, since, [sample.name for sample in late[:3]])]
    told.append(seen_by("reward/mean of the steps before", before, since - 1))
    told.append(seen_by("different completions since", len({sample.completion for sample in late})))
    summary = f"since step {since} every completion gets {value:g}, whatever it says; before it was {before:.3g}"
    yield Seen(cause, 0.93, summary, evidence=told, before=since)


@detector("the learning rate from step to step")
def rate(facts: RunFacts) -> Iterator[Seen]:
    """A rate that leaps without a resume, or that is above the one that was asked for."""
    series = [point for point in facts.series("lr") if point[1] > 0]
    peak = float(facts.setting("train.lr", 0.0) or 0.0)
    warm = max(WARM, int(facts.setting("train.warmup_steps", 0) or 0))
    leaps = [
        (two[0], one[1], two[1])
        for one, two in itertools.pairwise(series)
        if two[0] > warm and two[1] > RATE_JUMP * one[1] and not _resumed_at(facts, two[0])
    ]
    above = [point for point in series if point[1] > RATE_JUMP * peak > 0]
    if not leaps and not above:
        return
    step, before, after = leaps[0] if leaps else (above[0][0], peak, above[0][1])
    told = [seen_by("lr before", before, step - 1), seen_by("lr after", after, step), seen_by("train.lr", peak)]
    summary = f"at step {step} the learning rate goes from {before:.3g} to {after:.3g}"
    summary += f", train.lr is {peak:g}" if above else ""
    advice = "look at what sets the rate: a schedule that starts anew, or counts other steps"
    is_worse = _is_worse(facts, step)
    # A cycle of rates may be wanted; one that ruins what was learned is not.
    confidence = 0.93 if is_worse else 0.9 if above else 0.6
    severity = "error" if is_worse or above else "warning"
    yield Seen("lr_too_high", confidence, summary, severity, told, advice, before=step)


@detector("the mask from step to step")
def mask(facts: RunFacts) -> Iterator[Seen]:
    if facts.is_rl:  # of completions whose length is the policy's own matter
        return
    found = jump(facts.series("mask/coverage"), CLEAR)
    if found is None or not found.before or 1 / MASK_JUMP < found.after / found.before < MASK_JUMP:
        return
    told = [seen_by("mask/coverage before", found.before, found.step - 1)]
    told.append(seen_by("mask/coverage after", found.after, found.step))
    summary = f"at step {found.step} the mask goes from {found.before:.0%} to {found.after:.0%} of the tokens"
    yield Seen("mask_coverage", 0.85, summary, evidence=told, before=found.step)


@detector("the loss from step to step")
def loss(facts: RunFacts) -> Iterator[Seen]:
    """A loss that leaps up and does not come back at once: other rows, other targets, or weights that were lost."""
    if facts.is_rl:
        return
    # The first steps of a run, in which the loss falls fastest, are no measure of what follows.
    series = facts.series("loss")[WARM:]
    seen = [one for one in (jump(series, CLEAR), leap(series)) if one and one.after > WORSE * abs(one.before)]
    found = next((one for one in seen if not _resumed_at(facts, one.step)), None)
    if found is None:
        return
    gains = facts.series("eval/loss", from_step=0)
    told = [seen_by("loss before", found.before, found.step - 1), seen_by("loss after", found.after, found.step)]
    told += [seen_by("eval/loss", value, step) for step, value in gains[-2:]]
    summary = f"at step {found.step} the loss goes from {found.before:.3g} to {found.after:.3g} at once"
    advice = f"look at the rows from step {found.step} on, and at what changed then: data, weights, learning rate"
    yield Seen("diverged", 0.85, summary, evidence=told, next=advice, before=found.step)


@detector("the policy from step to step")
def policy(facts: RunFacts) -> Iterator[Seen]:
    """An entropy that leaps, and a reward that does not rise with it: an update, or a copy, that broke the policy."""
    found = leap(facts.series("entropy")[WARM:]) if facts.is_rl else None
    if (
        found is None
        or any(relapsed(facts))
        or _resumed_at(facts, found.step)
        or abs(found.change) < LEAPT * abs(found.before)
    ):
        return
    reward = facts.series("reward/mean")
    before = median([value for step, value in reward if found.step - WARM <= step < found.step])
    after = median([value for step, value in reward if step >= found.step][:WARM])
    if after > before:
        return
    told = [seen_by("entropy before", found.before, found.step - 1), seen_by("entropy after", found.after, found.step)]
    told += [seen_by("reward/mean before", before, found.step - 1), seen_by("reward/mean after", after, found.step)]
    summary = f"at step {found.step} the entropy goes from {found.before:.3g} to {found.after:.3g} at once, and the "
    summary += f"reward from {before:.3g} to {after:.3g}"
    advice = f"look at the update of step {found.step - 1} and at what else changed the weights there"
    cause = "entropy_high" if found.change > 0 else "entropy_low"
    yield Seen(cause, 0.8, summary, evidence=told, next=advice, before=found.step)


def _resumed_at(facts: RunFacts, step: int) -> bool:
    """Whether the run went on from a checkpoint near this step; that has detectors of its own."""
    for event in facts.events:
        name = str(event.get("checkpoint", ""))[5:]
        if event.get("code") == "resumed" and name.isdigit() and abs(int(name) + 1 - step) <= AT_ONCE:
            return True
    return False


def _changed(facts: RunFacts, step: int) -> bool:
    """Whether the policy itself made a leap there: its entropy, its length, or the rate that it learns with."""
    for name in ("entropy", "completion/length", "lr"):
        found = jump(facts.series(name), CLEAR)
        if found and abs(found.step - step) <= AT_ONCE and abs(found.change) > 0.2 * abs(found.before):
            return True
    return False


def _is_worse(facts: RunFacts, step: int) -> bool:
    name, sign = ("reward/mean", -1.0) if facts.is_rl else ("loss", 1.0)
    before = [value for at, value in facts.series(name) if step - 2 * WARM <= at < step]
    after = [value for at, value in facts.series(name) if at >= step][2:]
    if len(before) < 3 or len(after) < 3:
        return False
    low, high = median(before), median(after)
    return sign * (high - low) > 0.2 * abs(low)
