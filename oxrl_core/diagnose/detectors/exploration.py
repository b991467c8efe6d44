"""Entropy, temperature, and the distance to the reference."""

from __future__ import annotations

from collections.abc import Iterator

from oxrl_core.diagnose.detectors import Seen, detector, seen_by
from oxrl_core.diagnose.facts import RunFacts
from oxrl_core.diagnose.trends import median

SETTLED = 0.1  # of the entropy at the start
NOISE, NATS = 1.2, 0.2  # times the entropy at the start, and nats per token above it: less is no noise
STRONG = 0.03  # an entropy bonus; recipes take 0 to 0.01
COLD, HOT = 0.3, 1.8  # temperatures outside of which training rollouts are hardly ever drawn
BEGUN = 0.05  # nats: rounding leaves less between one model and itself
FAR = 1.0  # nats per token from the reference: another model, in which the reference no longer says anything
HELD = 0.1  # a KL coefficient that holds a policy within a nat of its reference, for rewards of about 1
SUCCESS = 0.8  # of the best reward: a policy that has found it may settle


@detector("entropy")
def entropy(facts: RunFacts) -> Iterator[Seen]:
    values = facts.values("entropy")
    if len(values) < 10 or values[0] <= 0:
        return
    start, now = median(values[:3]), median(values[-5:])
    reward = facts.trend("reward/mean")
    level = reward.last / _best(facts) if reward else 0.0
    told = [seen_by("entropy at first", start, 1), seen_by("entropy at last", now, facts.step)]
    told += [seen_by("reward/mean", reward.last, facts.step)] if reward else []
    if now < SETTLED * start and level < SUCCESS:
        first = next(step for step, value in facts.series("entropy") if value < SETTLED * start)
        summary = f"the entropy fell from {start:.3g} to {now:.2g} at {level:.0%} of the best reward"
        # A reward that still rises may yet get there.
        severity = "warning" if reward and reward.rises and level > 0.5 else "error"
        yield Seen("entropy_low", 0.85, summary, severity, told, before=first)
    coefficient = float(facts.setting("algorithm.entropy_coef", 0.0) or 0.0)
    # A policy that has found the reward may say it in many ways.
    if now > max(NOISE * start, start + NATS) and not (reward and reward.rises) and level < SUCCESS:
        summary = f"the entropy rose from {start:.3g} to {now:.3g}"
        summary += f" with entropy_coef {coefficient:g}" if coefficient else ""
        is_paid = coefficient > STRONG
        yield Seen("entropy_high", 0.85 if is_paid else 0.6, summary, "error" if is_paid else "warning", told)
    elif coefficient > 0 and reward and not reward.rises and now > 0.9 * start and reward.steps >= 15:
        loss = facts.trend("loss")
        # The bonus counts coefficient x entropy in the loss; where that is all of it, the reward is not heard.
        if loss and abs(loss.last) > 0 and coefficient * now > 0.9 * abs(loss.last) and coefficient > 0.3:
            summary = f"the entropy bonus ({coefficient:g} x {now:.3g}) is the whole loss; the reward does not move"
            yield Seen("entropy_high", 0.8, summary, "error", told)


@detector("sampling temperature")
def temperature(facts: RunFacts) -> Iterator[Seen]:
    degree = float(facts.setting("rollout.temperature", 1.0) or 1.0)
    if not facts.is_rl or COLD < degree < HOT:
        return
    reward = facts.trend("reward/mean")
    told = [seen_by("rollout.temperature", degree)]
    same = facts.values("groups/zero_variance")
    if degree <= COLD and same and median(same) > 0.5:
        told.append(seen_by("groups/zero_variance, median", median(same), facts.step))
        summary = f"at temperature {degree:g} {median(same):.0%} of the groups have one reward"
        yield Seen("temperature_low", 0.93, summary, evidence=told, before=1)
    elif degree >= HOT:
        told += [seen_by("reward/mean", reward.last, facts.step)] if reward else []
        rises = reward is not None and reward.rises
        summary = f"at temperature {degree:g} the reward " + (
            "rises in spite of the noise" if rises else "does not rise"
        )
        yield Seen("temperature_high", 0.6 if rises else 0.8, summary, "warning" if rises else "error", told, before=1)
    elif degree <= COLD:
        stays = reward is None or not reward.rises
        told += [seen_by("reward/mean", reward.last, facts.step)] if reward else []
        summary = f"at temperature {degree:g} the completions of a group hardly differ"
        summary += ", and the reward does not rise" if stays else ""
        yield Seen("temperature_low", 0.9 if stays else 0.6, summary, "error" if stays else "warning", told, before=1)


@detector("distance to the reference")
def reference(facts: RunFacts) -> Iterator[Seen]:
    kl = facts.trend("kl/ref")
    reward = facts.trend("reward/mean")
    if kl is None or kl.last < FAR:
        return
    told = [seen_by("kl/ref", kl.last, facts.step), seen_by("kl/ref at first", kl.first)]
    ruined = reward is not None and not reward.rises
    summary = f"the KL to the reference is {kl.last:.3g} nats per token"
    summary += " and the reward did not rise" if ruined else ""
    severity = "error" if ruined and kl.last > 3 * FAR else "warning"
    confidence = 0.75 if ruined else 0.4
    pull = float(facts.setting("algorithm.kl_coef", 0.0) or 0.0)
    if severity == "error" and pull >= HELD:
        # What is paid for with so much of the reward, and yet grows, is not held: its sign, or its place, is wrong.
        confidence = 0.93
        told.append(seen_by("algorithm.kl_coef", pull))
        summary += f", although algorithm.kl_coef {pull:g} should hold it"
    yield Seen("kl_high", confidence, summary, severity, told)


@detector("the reference at the first step")
def other_reference(facts: RunFacts) -> Iterator[Seen]:
    """Policy and reference are one model when a run begins: what differs there is a reference of another model."""
    if any(event.get("code") in ("resumed", "forked") for event in facts.events):
        return
    apart, what = 0.0, "preference/chosen"
    if _is_referenced(facts):
        for name in ("preference/chosen", "preference/rejected"):
            first = next((value for step, value in facts.series(name) if step == 1), 0.0)
            apart, what = (abs(first), name) if abs(first) > apart else (apart, what)
    if apart < BEGUN:
        return
    told = [seen_by(f"{what} at the first step", apart, 1)]
    summary = f"{what} is {apart:.3g} at the first step, where the policy still is its reference: they are two models"
    advice = "look at which weights the reference was loaded from, and whether both were loaded whole"
    yield Seen("kl_high", 0.88, summary, "error", told, next=advice, before=1)


def _is_referenced(facts: RunFacts) -> bool:
    """Whether the loss compares with a reference policy."""
    config = facts.config
    if config is None:
        return False
    from oxrl_core.algorithms.base import REFERENCED_SIGNALS, get_algorithm
    from oxrl_core.errors import OxrlError

    try:
        return get_algorithm(config.algorithm.name).signals in REFERENCED_SIGNALS
    except OxrlError:  # an own loss whose file is not here any more
        return False


def _best(facts: RunFacts) -> float:
    """The highest reward seen; 1 where none was recorded."""
    scores = [sample.score or 0.0 for sample in facts.samples.all() if sample.has_verdict]
    return max([*scores, 1e-9]) if scores else 1.0
