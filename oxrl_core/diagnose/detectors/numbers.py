"""Loss, gradient and learning rate."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from oxrl_core.diagnose.detectors import Seen, detector, seen_by
from oxrl_core.diagnose.facts import RunFacts
from oxrl_core.diagnose.trends import longest_end, median, trend
from oxrl_core.diagnose.views import Evidence

WATCHED = ("loss", "grad_norm", "reward/mean", "reward/shaped", "entropy", "kl/ref", "gap/mean", "value/loss")
DEAD_STEPS = 5  # a gradient of exactly 0 can be one unlucky step; five in a row cannot
WARM_SHARE = 0.1  # of the peak: a warm-up that ends there has hardly begun
SPIKE = 20.0  # times the median gradient; healthy runs stay below 10 after their first steps
WARM = 5  # first steps, whose gradients are large by nature
# Adam moves a weight by at most about lr in a step. Weights are about 0.02: a total of 1e-6 is 0.005 % of one.
LEAST_WAY = 1e-6
# Highest learning rate of AdamW that is seen to work, by size: 3e-2 for a million weights, falling with the 0.4th power
# (GPT-3's table falls alike: 6e-4 at 1.3e8, 0.6e-4 at 1.7e11). Only together with a collapse does it say anything.
LR_AT_MILLION = 3e-2
LR_POWER = 0.4
LONG, AT_CHANCE = 30, 0.08  # steps; a hundred held-out pairs at chance lie within 0.1 of a half
FLOOR_SHARE = 0.01  # of the peak: nothing more is learned there
NOTHING = 0.01  # nats a token: a loss that begins below it has come to its end
KNOWN, UNKNOWN = 0.1, 0.6  # of its beginning: a training loss that is next to nothing, a held-out loss that stays
FLOOR_STEPS = 0.2  # of the run spent there


@detector("finite numbers")
def not_finite(facts: RunFacts) -> Iterator[Seen]:
    bad = [(step, name) for step, name in facts.not_finite() if name in WATCHED]
    if not bad:
        return
    step, name = bad[0]
    yield Seen(
        "not_finite",
        0.95,
        f"{name} is NaN or infinite from step {step} on",
        evidence=[seen_by(name, "not finite", step) for step, name in bad[:4]],
        before=step,
    )


@detector("dead gradients")
def gradient_dead(facts: RunFacts) -> Iterator[Seen]:
    series = facts.series("grad_norm")
    count = longest_end(series, lambda value: value == 0.0)
    if count >= DEAD_STEPS:
        first = series[-count][0]
        told = seen_by("steps with grad_norm 0", count, first)
        yield Seen("gradient_dead", 0.9, f"the gradient is exactly 0 since step {first}", evidence=[told], before=first)


@detector("gradient spikes")
def gradient_spike(facts: RunFacts) -> Iterator[Seen]:
    series = facts.series("grad_norm")
    usual = median([value for _, value in series])
    # What is not even clipped is no spike: of a task that is learned the median alone has become tiny.
    least = max(SPIKE * usual, float(facts.setting("train.max_grad_norm", 1.0) or 1.0))
    spikes = [(step, value) for step, value in series[WARM:] if usual > 0 and value > least]
    if spikes and len(series) >= 3 * WARM:
        step, value = max(spikes, key=lambda point: point[1])
        summary = f"the gradient of step {step} is {value / usual:.0f} times the median"
        evidence = [seen_by("grad_norm", value, step) for step, value in spikes[:4]]
        yield Seen("gradient_spike", 0.45, summary, "warning", [*evidence, seen_by("median", usual)], before=step)


@detector("updates lost to rounding")
def lost_updates(facts: RunFacts) -> Iterator[Seen]:
    peak = float(facts.setting("train.lr", 0.0) or 0.0)
    # At the floor of a schedule there is no update that could be lost.
    at_floor = {step for step, value in facts.series("lr") if value <= FLOOR_SHARE * peak}
    lost = trend([point for point in facts.series("update/lost") if point[0] not in at_floor])
    if lost and lost.last > 0.5:  # most of what the optimizer wanted did not happen
        summary = f"{lost.last:.0%} of the weights kept their value although they had an update"
        told = [seen_by("update/lost", lost.last, facts.step)]
        told.append(seen_by("model.precision", str(facts.setting("model.precision", "auto"))))
        yield Seen("lost_updates", 0.85, summary, evidence=told)


@detector("the learning rate's way")
def learning_rate(facts: RunFacts) -> Iterator[Seen]:
    series = facts.series("lr")
    peak = float(facts.setting("train.lr", 0.0) or 0.0)
    if len(series) < 8 or peak <= 0:
        return
    way = sum(value for _, value in series)
    if way < LEAST_WAY:
        told = [seen_by("sum of lr over all steps", way, facts.step), seen_by("train.lr", peak)]
        summary = f"with lr {peak:g} no weight can have moved by more than {way:.1g} in {len(series)} steps"
        yield Seen("lr_too_low", 0.95, summary, evidence=told)
        return
    total = (facts.status.total_steps if facts.status else None) or facts.step
    warmup, highest = int(facts.setting("train.warmup_steps", 0) or 0), max(value for _, value in series)
    if warmup > total and highest < 0.5 * peak:
        told = [seen_by("highest lr", highest, facts.step), seen_by("train.warmup_steps", warmup)]
        summary = f"the warm-up of {warmup} steps is longer than the run of {total}: lr gets to {highest:g} of {peak:g}"
        yield Seen("lr_too_low", 0.9, summary, "error" if highest < WARM_SHARE * peak else "warning", told)
        return
    # The schedule, not the warm-up: it must have been high before.
    count = longest_end(series, lambda value: value <= FLOOR_SHARE * peak)
    if count >= max(5, FLOOR_STEPS * total) and any(value >= 0.5 * peak for _, value in series):
        first = series[-count][0]
        told = seen_by("lr", series[-1][1], first)
        summary = f"lr is at {series[-1][1]:g}, {FLOOR_SHARE:.0%} of its peak or less, since step {first} of {total}"
        # Half of the run for nothing is an error; a last stretch is how some people want it.
        yield Seen("lr_floor", 0.85, summary, "error" if count > total / 2 else "warning", [told])


@detector("divergence")
def too_high(facts: RunFacts) -> Iterator[Seen]:
    """A learning rate beyond what models of this size bear, and a collapse that fits it."""
    peak = float(facts.setting("train.lr", 0.0) or 0.0)
    bound = highest_lr(facts)
    collapse = _collapse(facts)
    if peak <= 0 or not collapse:
        return
    told = [seen_by("train.lr", peak), seen_by("highest usual lr for this size", bound), *_evidence(facts)]
    if peak > bound:
        yield Seen("lr_too_high", 0.92, f"lr {peak:g} is far above the usual, and {collapse}", evidence=told, before=1)
    elif peak > 0.3 * bound:
        yield Seen("lr_too_high", 0.8, f"lr {peak:g} is high, and {collapse}", evidence=told, before=1)


@detector("the course of the loss")
def loss_course(facts: RunFacts) -> Iterator[Seen]:
    if facts.is_rl:
        return
    loss = facts.trend("loss")
    if loss is None or loss.steps < 10:
        return
    first = facts.values("loss")[0]
    told = [seen_by("loss at first", first, 1), seen_by("loss at last", loss.last, facts.step)]
    if loss.last > 1.2 * abs(first) and loss.rises:
        yield Seen("diverged", 0.75, f"the loss rose from {first:.3g} to {loss.last:.3g}", evidence=told)
    if max(abs(loss.high), abs(loss.low)) < NOTHING:
        summary = f"the loss was never above {max(abs(loss.high), abs(loss.low)):.2g}: there is nothing that it could "
        advice = "look at what is compared: a teacher that is the student, a target that is the prediction"
        yield Seen("loss_flat", 0.9, summary + "learn", "error", told, next=advice, before=1)
    noise = abs(loss.high - loss.low)
    if loss.steps >= 20 and abs(loss.deviations) < 2 and noise < 0.02 * max(abs(first), 1e-9):
        yield Seen("loss_flat", 0.5, f"the loss stays at {loss.last:.4g}", "warning", told)
    accuracy, held = facts.trend("preference/accuracy"), facts.values("eval/preference/accuracy")
    if accuracy and len(held) >= 2 and accuracy.last > 0.9 and 0.35 <= held[-1] < 0.6:
        more = [seen_by("preference/accuracy", accuracy.last, facts.step)]
        more.append(seen_by("eval/preference/accuracy", held[-1], facts.step))
        summary = (
            f"{accuracy.last:.0%} of the training pairs are told apart, and of held-out ones {held[-1]:.0%}: chance"
        )
        yield Seen("overfitting", 0.8, summary, "error", more)
    held_out = facts.series("eval/loss", from_step=0)
    if len(held_out) >= 3 and loss.falls:
        best = min(held_out, key=lambda point: point[1])
        risen = held_out[-1][1] - best[1]
        # A tenth: less is the noise of a few hundred held-out rows.
        if best[0] < held_out[-1][0] and risen > 0.1 * abs(best[1]) and held_out[-1][1] > loss.last:
            more = [
                seen_by("eval/loss, best", best[1], best[0]),
                seen_by("eval/loss, last", held_out[-1][1], held_out[-1][0]),
            ]
            summary = f"eval/loss rose by {risen:.3g} since step {best[0]} while the training loss fell"
            yield Seen("overfitting", 0.7, summary, "warning", more, before=best[0])
        elif loss.last < KNOWN * abs(first) and min(value for _, value in held_out[1:]) > UNKNOWN * held_out[0][1]:
            more = [seen_by("eval/loss at first", held_out[0][1], held_out[0][0])]
            more.append(seen_by("eval/loss, last", held_out[-1][1], held_out[-1][0]))
            summary = f"the training loss fell from {first:.3g} to {loss.last:.3g}, the held-out loss from "
            summary += f"{held_out[0][1]:.3g} to {held_out[-1][1]:.3g} only: what it learned are the rows"
            yield Seen("overfitting", 0.75, summary, "warning", more, before=1)


@detector("the direction of learning")
def backwards(facts: RunFacts) -> Iterator[Seen]:
    """A likelihood or a preference that moves the wrong way from the start."""
    accuracy = facts.trend("preference/accuracy")
    if accuracy and accuracy.steps >= 8 and accuracy.last < 0.35:  # chance is a half
        margin = facts.trend("preference/margin")
        told = [seen_by("preference/accuracy", accuracy.last, facts.step)]
        told += [seen_by("preference/margin", margin.last, facts.step)] if margin else []
        summary = f"the rejected completion is preferred in {1 - accuracy.last:.0%} of the pairs"
        yield Seen("learns_backwards", 0.93, summary, evidence=told, before=1)
    held_out = facts.series("eval/preference/accuracy", from_step=0)
    if accuracy and accuracy.last > 0.6 and held_out and held_out[-1][1] < 0.35:
        told = [seen_by("preference/accuracy", accuracy.last, facts.step)]
        told.append(seen_by("eval/preference/accuracy", held_out[-1][1], held_out[-1][0]))
        summary = "what it learns to prefer is what the held-out pairs reject: chosen and rejected are swapped in one"
        yield Seen("learns_backwards", 0.9, summary, evidence=told, before=1)
    yield from _labels_inverted(facts)
    loss = facts.trend("loss")
    is_likelihood = str(facts.setting("algorithm.name", "")) in ("sft", "cpt", "rft")
    if loss and is_likelihood and loss.last < 0:
        told = [seen_by("loss", loss.last, facts.step)]
        yield Seen("learns_backwards", 0.95, "a negative log-likelihood below 0: its sign is flipped", evidence=told)
    elif loss and loss.last < -1.0 and loss.falls and not facts.is_rl and facts.has_own_loss:
        held = facts.series("eval/loss", from_step=0)
        told = [seen_by("loss", loss.last, facts.step)]
        growing = len(held) >= 2 and held[-1][1] < -1.0
        summary = f"the loss of {facts.setting('algorithm.name')} fell far below 0, to {loss.last:.3g}, without a bound"
        yield Seen("learns_backwards", 0.8 if growing else 0.65, summary, evidence=told, before=1)


def _labels_inverted(facts: RunFacts) -> Iterator[Seen]:
    """Single completions with a label have no accuracy: what training holds apart the held-out rows hold reversed."""
    if facts.trend("preference/accuracy"):
        return
    chosen, rejected = facts.trend("preference/chosen"), facts.trend("preference/rejected")
    held_chosen = facts.series("eval/preference/chosen", from_step=0)
    held_rejected = facts.series("eval/preference/rejected", from_step=0)
    if not (chosen and rejected and len(held_chosen) >= 3 and len(held_rejected) >= 3):
        return
    gap = chosen.last - rejected.last
    held_gaps = [one[1] - other[1] for one, other in zip(held_chosen, held_rejected, strict=False)]
    # At every evaluation but the one of the start: a model that learns by heart is first right, then noise.
    if gap > 0 and all(held_gap < held_gaps[0] for held_gap in held_gaps[1:]) and held_gaps[-1] < -0.5 * gap:
        told = [seen_by("preference/chosen less rejected", gap, facts.step)]
        told.append(seen_by("eval/preference/chosen less rejected", held_gaps[-1], held_chosen[-1][0]))
        summary = "what it learns to prefer is what the held-out rows call undesirable: the label is inverted in one"
        yield Seen("learns_backwards", 0.85, summary, evidence=told, before=1)


def held_out_accuracy(facts: RunFacts) -> float | None:
    """The mean accuracy on held-out pairs over the second half of three evaluations or more; None of fewer."""
    held = facts.values("eval/preference/accuracy")
    return statistics.fmean(held[len(held) // 2 :]) if len(held) >= 3 else None


def highest_lr(facts: RunFacts) -> float:
    """The highest learning rate that models of this size are seen to bear; adapters bear ten times as much."""
    from oxrl_core.diagnose.weights import num_parameters

    count = num_parameters(facts.initial_model) if facts.initial_model else 0
    bound = LR_AT_MILLION * (max(count, 1e5) / 1e6) ** -LR_POWER if count else LR_AT_MILLION
    return bound * (10 if facts.setting("model.lora.enabled", False) else 1)


def _collapse(facts: RunFacts) -> str:
    """What has gone wrong with the numbers, in words; empty where nothing has."""
    if any(name in WATCHED for _, name in facts.not_finite()):
        return "the numbers are not finite"
    loss = facts.trend("loss")
    if not facts.is_rl and loss:
        first = facts.values("loss")[0]
        if loss.last > 1.1 * abs(first) or loss.high > 3 * abs(first):
            return f"the loss rose from {first:.3g} to {max(loss.last, loss.high):.3g}"
        # A loss with a ceiling cannot rise: past it there is no slope any more.
        gradients = facts.values("grad_norm")
        dead = longest_end(facts.series("grad_norm"), lambda value: value == 0.0)
        if dead >= DEAD_STEPS and gradients[0] > 0:
            return f"the gradient has been exactly 0 for {dead} steps"
        held = held_out_accuracy(facts)
        if held is not None and len(gradients) >= LONG and abs(held - 0.5) < AT_CHANCE:
            return f"after {len(gradients)} steps held-out pairs are told apart in {held:.0%}, as by a coin"
        return ""
    entropy, reward = trend(facts.series("entropy")), trend(facts.series("reward/mean"))
    best = max((sample.score or 0.0 for sample in facts.samples.all()), default=1.0) or 1.0
    if reward and reward.last < 0.6 * best:
        values = facts.values("entropy")
        if entropy and values and values[0] > 0 and median(values[-5:]) < 0.1 * values[0]:
            return f"the entropy fell from {values[0]:.3g} to {median(values[-5:]):.2g} without the reward"
        if reward.falls and reward.last < 0.5 * reward.first:
            return f"the reward fell from {reward.first:.3g} to {reward.last:.3g}"
    return ""


def _evidence(facts: RunFacts) -> list[Evidence]:
    found: list[Evidence] = []
    for name in ("loss", "entropy", "reward/mean"):
        values = facts.series(name)
        if values:
            found += [
                seen_by(f"{name} at first", values[0][1], values[0][0]),
                seen_by(name, values[-1][1], values[-1][0]),
            ]
    return found
