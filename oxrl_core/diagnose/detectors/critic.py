"""The critic: values that have nothing to do with the rewards."""

from __future__ import annotations

from collections.abc import Iterator

from oxrl_core.diagnose.detectors import Seen, detector, seen_by
from oxrl_core.diagnose.detectors.numbers import highest_lr
from oxrl_core.diagnose.facts import RunFacts
from oxrl_core.diagnose.trends import median

STEPS = 8
BEYOND = 10.0  # times the largest reward that was ever given: a return is a sum of rewards, of which one is large
TENTH = 0.1


@detector("values of the critic")
def blown_up(facts: RunFacts) -> Iterator[Seen]:
    """Values far beyond what rewards can add up to: the critic has lost itself, and all advantages are its noise."""
    errors, means = facts.values("value/loss"), facts.values("value/mean")
    if len(errors) < STEPS or len(means) < STEPS:
        return
    judged = [abs(sample.score or 0.0) for sample in facts.samples.all() if sample.has_verdict]
    largest = max([*judged, *(abs(value) for value in facts.values("reward/mean")), 1e-9])
    # What the KL takes off the reward adds up over the tokens of a completion.
    kl = max((abs(value) for value in facts.values("kl/ref")), default=0.0)
    longest = max(facts.values("completion/length"), default=0.0)
    spent = float(facts.setting("algorithm.kl_coef", 0.0) or 0.0) * kl * longest
    bound = BEYOND * (largest + spent)
    usual, missed = median([abs(value) for value in means]), median(errors) ** 0.5
    if usual < bound or missed < bound / BEYOND:
        return
    rate = float(facts.setting("algorithm.critic_lr") or facts.setting("train.lr", 0.0) or 0.0)
    told = [seen_by("largest reward", largest), seen_by("|value/mean|, median", usual, facts.step)]
    told += [seen_by("value/loss, median", median(errors), facts.step), seen_by("algorithm.critic_lr", rate)]
    summary = f"the critic expects {usual:.3g} where no reward is above {largest:.3g}: its values are its own noise"
    # The rate to go on with, for the plan: it is the critic's that is wrong, not the policy's.
    numbers = {"critic_lr": f"{min(TENTH * rate, TENTH * highest_lr(facts)):.2g}"}
    advice = "start again with a smaller algorithm.critic_lr"
    if rate > highest_lr(facts):
        summary = f"algorithm.critic_lr {rate:g} is far above the usual, and {summary}"
        yield Seen("lr_too_high", 0.92, summary, evidence=told, next=advice, numbers=numbers, before=1)
    else:
        yield Seen("diverged", 0.8, summary, evidence=told, next=advice, numbers=numbers, before=1)
