"""Learning rates that do not fit what is learned: far below the usual with no progress, or high with none."""

from __future__ import annotations

from collections.abc import Iterator

from oxrl_core.diagnose.detectors import Seen, detector, seen_by
from oxrl_core.diagnose.detectors.numbers import highest_lr
from oxrl_core.diagnose.facts import RunFacts
from oxrl_core.diagnose.trends import median

# Of the highest rate that models of this size bear: usual are a fiftieth (SFT) to a thousandth (RL on large ones).
FAINT = 1e-3
HIGH = 0.3
ROUNDED = 0.5
DULL = 0.6  # share of groups of one reward
STEPS, LONG = 12, 20
SLIGHT = (
    0.25  # of its beginning: a loss that has fallen by less, and still falls as evenly as at first, has hardly begun
)
EVEN = 0.5  # fall of the second half of the steps over that of the first: learning that works slows down
LORA_STRONG = 16.0  # alpha / rank: recipes take 0.5 to 4


@detector("progress for so small a learning rate")
def faint(facts: RunFacts) -> Iterator[Seen]:
    peak, bound = max(facts.values("lr"), default=0.0), highest_lr(facts)
    asked = float(facts.setting("train.lr", 0.0) or 0.0)
    if not 0 < peak < FAINT * bound or not any(value > 0 for value in facts.values("grad_norm")):
        return
    hardly = _hardly(facts)
    # Updates that are lost to rounding are another finding, and its reason is measured; and no rate learns from groups
    # of one reward.
    same = median(facts.values("groups/zero_variance") or [0.0])
    if not hardly or same > DULL or median(facts.values("update/lost") or [0.0]) > ROUNDED:
        return
    name, first, last = hardly
    told = [seen_by("highest lr", peak), seen_by("train.lr", asked), seen_by("highest usual lr for this size", bound)]
    told += [seen_by(f"{name} at first", first), seen_by(f"{name} at last", last, facts.step)]
    summary = f"with lr {peak:.2g}, {bound / peak:.0f} times less than models of this size bear, {name} goes from "
    summary += f"{first:.4g} to {last:.4g} in {facts.step} steps"
    yield Seen("lr_too_low", 0.85, summary, evidence=told, before=1)


@detector("progress for so small a learning rate of the critic")
def faint_critic(facts: RunFacts) -> Iterator[Seen]:
    rates, explained = facts.values("value/lr"), facts.values("value/explained")
    bound = highest_lr(facts)
    if not rates or len(explained) < STEPS or not 0 < max(rates) < FAINT * bound:
        return
    late = median(explained[-len(explained) // 3 :])
    if late > 0.1:  # of the variance of the returns: a critic that explains nothing has learned nothing
        return
    told = [seen_by("value/lr", max(rates)), seen_by("value/explained, last third", late, facts.step)]
    summary = f"the critic learns with {max(rates):.2g}, {bound / max(rates):.0f} times less than models of this size "
    summary += f"bear, and explains {max(late, 0.0):.0%} of the returns"
    advice = "set algorithm.critic_lr to a usual value, as 1e-3 for a small and 1e-5 for a large model"
    yield Seen("lr_too_low", 0.85, summary, evidence=told, next=advice, before=1)


@detector("progress for so high a learning rate")
def high(facts: RunFacts) -> Iterator[Seen]:
    """Nothing collapses, and little is learned: each step undoes the one before it."""
    peak, bound, scale = max(facts.values("lr"), default=0.0), highest_lr(facts), _lora_scale(facts)
    is_beyond = peak * scale > bound
    if peak * scale <= HIGH * bound or facts.step < STEPS:
        return
    told = [seen_by("highest lr", peak), seen_by("highest usual lr for this size", bound)]
    told += [seen_by("model.lora.alpha / model.lora.rank", 2 * scale)] if scale > 1 else []
    stuck = _reward_stays(facts) if facts.is_rl else _loss_stays(facts)
    if not stuck and not is_beyond:
        return
    summary = f"lr {peak:g} is {'beyond' if is_beyond else 'near'} the highest that models of this size bear"
    summary += ", with adapters that count many times as much as usual" if scale > 1 else ""
    # A task that is easy enough is learned at any rate; the rate is still one that nobody would choose.
    summary += f", and {stuck}" if stuck else ", even if nothing has collapsed here"
    confidence = 0.85 if stuck and is_beyond else 0.65
    yield Seen("lr_too_high", confidence, summary, "error" if stuck and is_beyond else "warning", told, before=1)


def _reward_stays(facts: RunFacts) -> str:
    reward = facts.trend("reward/mean")
    if reward is None or reward.steps < LONG or reward.rises:
        return ""
    return f"the reward does not rise in {reward.steps} steps"


def _loss_stays(facts: RunFacts) -> str:
    """Words for a loss that is still above half of its beginning, and does not get better on held-out rows either."""
    loss, held = facts.values("loss"), [value for _, value in facts.series("eval/loss", from_step=0)]
    if len(loss) < LONG:
        return ""
    first, low = median(loss[:3]), median(loss[len(loss) // 2 :])
    # A quarter less than at the start is what the mere frequencies of the tokens are worth.
    stays = low > 0.5 * first > 0 and (len(held) < 3 or held[-1] > 0.95 * min(held))
    return f"the loss stays at {low:.3g}, from {first:.3g}" if stays else ""


def _lora_scale(facts: RunFacts) -> float:
    """How many times a usual adapter counts; 1 where there is none, or a usual one."""
    if not facts.setting("model.lora.enabled", False):
        return 1.0
    scale = float(facts.setting("model.lora.alpha", 32)) / float(facts.setting("model.lora.rank", 16))
    return scale / 2 if scale >= LORA_STRONG else 1.0


def _hardly(facts: RunFacts) -> tuple[str, float, float] | None:
    """The measure of progress with its first and last value, where there is hardly any."""
    if facts.is_rl:
        reward = facts.trend("reward/mean")
        if reward is None or reward.steps < STEPS or reward.rises:
            return None
        return "reward/mean", reward.first, reward.last
    loss = facts.values("loss")
    if len(loss) < STEPS:
        return None
    first, middle = median(loss[:3]), median(loss[len(loss) // 2 - 1 : len(loss) // 2 + 2])
    last = median(loss[-3:])
    begun, went_on = first - middle, middle - last
    is_slight = first - last < SLIGHT * abs(first)
    # A loss that has fallen by a hundredth is noise; one that falls as a line has only begun.
    if is_slight and (first - last < 0.01 * abs(first) or went_on > EVEN * begun):
        return "loss", first, last
    return None
