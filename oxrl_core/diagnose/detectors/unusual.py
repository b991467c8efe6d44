"""Settings far outside of what recipes use, in a run that does not get anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from oxrl_core.diagnose.detectors import Seen, detector, seen_by
from oxrl_core.diagnose.facts import RunFacts
from oxrl_core.diagnose.trends import median

# Key -> the range of recipes, with room on either side, and what lies beyond it does. Keys that have detectors of their
# own (rates, temperature, entropy, decay, epsilon, clipping, adapters) are not here.
USUAL: dict[str, tuple[float, float, str]] = {
    "algorithm.advantage_scale": (0.03, 30.0, "scales what the reward says against every other term"),
    "algorithm.gae_lambda": (0.5, 1.0, "makes the advantages those of a critic that knows nothing yet"),
    "algorithm.kl_coef": (0.0, 0.5, "holds the policy to its reference, whatever is rewarded"),
    "algorithm.value_clip": (0.02, 100.0, "keeps the critic from moving to the returns"),
    "algorithm.value_coef": (0.005, 5.0, "sets the value loss against the policy's"),
    "algorithm.mismatch_high": (1.05, 1000.0, "drops or weakens tokens that trainer and sampler agree about"),
    "algorithm.mismatch_low": (0.0, 0.95, "drops tokens that trainer and sampler agree about"),
    "algorithm.label_smoothing": (0.0, 0.4, "says of every pair that it may as well be the other way round"),
    "algorithm.centering": (0.0, 1.0, "pulls all rewards to 0, the margins with them"),
    "train.max_grad_norm": (1e-2, 1e4, "leaves next to nothing of the gradient"),
    "train.passes_per_step": (1, 10, "learns the same rollouts until they are known by heart"),
    "train.updates_per_step": (1, 64, "cuts a step into updates of hardly any rollout"),
    "reward.clip": (0.05, 1e9, "makes all rewards alike"),
    "reward.missing_eos_penalty": (0.0, 5.0, "outweighs the verdict"),
    "model.lora.dropout": (0.0, 0.5, "drops most of what the adapters do"),
}
SLOW_AVERAGE = 0.98  # first beta of Adam: beyond it an update is the mean of more steps than short runs have
QUICK_AVERAGE = 0.9  # second beta: below it the size of a step is that of the last few gradients
TIMES = 30.0  # a parameter of a loss against its default
STEPS = 12
LEVEL = 0.6  # of the best reward
FELL = 0.25  # of the loss at the beginning


@detector("settings far outside of recipes")
def unusual(facts: RunFacts) -> Iterator[Seen]:
    """What nobody sets so, where nothing is learned; where it is, a setting is a matter of taste."""
    stuck = _stuck(facts)
    found = list(_unusual(facts)) if stuck else []
    if not found:
        return
    told = [seen_by(key, value) for key, value, _, _ in found]
    told += [seen_by("what is usual", usual) for _, _, usual, _ in found[:1]]
    key, value, usual, why = found[0]
    summary = f"{key} {value:g} {why}; usual is {usual}, and {stuck}"
    cause = "reward_flat" if facts.is_rl else "loss_flat"
    yield Seen(cause, 0.82, summary, "error", told, next=f"set {key} to a usual value: {usual}", before=1)


def _unusual(facts: RunFacts) -> Iterator[tuple[str, float, str, str]]:
    """Key, value, what is usual, and what the value does."""
    for key, (low, high, why) in USUAL.items():
        value = _number(facts.setting(key))
        if value is not None and not low <= value <= high and _is_read(facts, key):
            yield key, value, f"{low:g} to {high:g}" if high < 1e3 else f"{low:g} or more", why
    betas: Any = facts.setting("train.betas")
    if isinstance(betas, list | tuple) and len(betas) == 2:  # pyright: ignore[reportUnknownArgumentType]
        first, second = _number(betas[0]), _number(betas[1])  # pyright: ignore[reportUnknownArgumentType]
        if first is not None and first > SLOW_AVERAGE:
            yield "train.betas.0", first, "0.9", "averages the gradient over more steps than it takes to learn"
        if second is not None and second < QUICK_AVERAGE:
            yield "train.betas.1", second, "0.95 to 0.999", "makes every step as large as lr, whatever the gradient"
    yield from _of_the_loss(facts)


def _of_the_loss(facts: RunFacts) -> Iterator[tuple[str, float, str, str]]:
    """Parameters of the loss itself that are many times their default."""
    config = facts.config
    if config is None or facts.has_own_loss:
        return
    from oxrl_core.algorithms.base import get_algorithm

    defaults: dict[str, Any] = dict(get_algorithm(config.algorithm.name).params)
    for name, value in config.algorithm.params.items():
        number, default = _number(value), _number(defaults.get(name))
        if number is None or not default or name == "label_smoothing" or name.startswith("clip"):
            continue
        if number > TIMES * default or number < default / TIMES:
            yield f"algorithm.{name}", number, f"{default:g}", f"is {number / default:.3g} times its default"


def _is_read(facts: RunFacts, key: str) -> bool:
    """Whether this run hears of the key at all."""
    if key == "algorithm.gae_lambda" or key.startswith("algorithm.value_"):
        return str(facts.setting("algorithm.advantage")) == "gae"
    if key.startswith("algorithm.mismatch_"):
        return facts.is_rl and str(facts.setting("algorithm.mismatch", "off")) != "off"
    if key.startswith("model.lora."):
        return bool(facts.setting("model.lora.enabled", False))
    return facts.is_rl or not key.startswith("reward.")


def _stuck(facts: RunFacts) -> str:
    """Words for a run that does not get anywhere; empty for one that does, or that is too short to say."""
    if facts.is_rl:
        reward = facts.trend("reward/mean")
        if reward is None or reward.steps < STEPS:
            return ""
        scores = [sample.score or 0.0 for sample in facts.samples.all() if sample.has_verdict]
        best, low = max([*scores, reward.high]), min([*scores, reward.low])
        level = (reward.last - low) / (best - low) if best > low else 0.0
        if level > LEVEL or (reward.rises and level > LEVEL / 2):
            return ""
        return f"the reward goes from {reward.first:.3g} to {reward.last:.3g} in {reward.steps} steps"
    loss = facts.values("loss")
    if len(loss) < STEPS:
        return ""
    first, last = median(loss[:3]), median(loss[-5:])
    if first - last > FELL * abs(first):
        return ""
    return f"the loss goes from {first:.3g} to {last:.3g} in {len(loss)} steps"


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
