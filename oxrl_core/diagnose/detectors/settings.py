"""Keys that were set and do nothing, and keys that undo what others ask for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from oxrl_core.diagnose.detectors import Seen, detector, seen_by
from oxrl_core.diagnose.facts import RunFacts
from oxrl_core.diagnose.trends import median
from oxrl_core.diagnose.weights import num_parameters

# What only a run that draws reads, and what only one that takes its completions from rows does. Keys that say how the
# machine is used (engine, workers) may well stand in a configuration that is shared by both.
DRAWING_KEYS = (
    "rollout.temperature", "rollout.top_p", "rollout.top_k", "rollout.group_size", "rollout.max_completion_tokens",
    "train.prompts_per_step",
)  # fmt: skip
ROW_KEYS = ("train.rows_per_step", "data.train_on")

# AdamW divides a gradient by its own size + eps: from there on eps, not the gradient, says how far a weight moves.
DAMPED, STOPPED = 0.1, 0.01  # share of lr that is left of a typical update: noticeable; nearly nothing
LORA_USUAL = 0.5  # alpha / rank; recipes lie between this and 4
LORA_FAINT = 0.05  # a tenth of the least that is usual
FEW = 10  # steps
SKIPPED = 0.6  # share of the steps; dynamic sampling passes over single ones
CLIPPED = 0.6  # share of tokens; GSPO's narrow range clips 0.4 in healthy runs
CLIPPED_NARROW, NARROW, HALFWAY = 0.2, 0.1, 0.5  # with a range below a tenth of the default; of full marks
DROPPED = 0.5
FORGOTTEN = 0.05  # of the reward that is left at the first token
SHORT_SIGHT = 0.8  # a discount of a token that leaves a tenth of a reward after ten of them
DECAY_USUAL, DECAYED = 1.0, 0.5  # recipes take 0 to 0.1; half of a matrix in one run is no regulariser any more
SLOW_FALL = 0.5  # share of its beginning that a loss must have fallen by, for a faint adapter to be no matter


@detector("keys of the configuration without effect")
def idle(facts: RunFacts) -> Iterator[Seen]:
    config = facts.config
    if config is None:
        return
    from oxrl_core.config.rules import find_contradictions
    from oxrl_core.errors import OxrlError

    try:
        found = find_contradictions(config)
    except OxrlError:  # an own loss whose file is not here any more
        return
    if found:
        told = [seen_by(one.key, one.reason) for one in found[:4]]
        yield Seen("config_idle", 0.6, f"{found[0].key}: {found[0].reason}", "warning", told, next=found[0].fix)


@detector("keys of another kind of training")
def unread(facts: RunFacts) -> Iterator[Seen]:
    """Values for the drawing of completions in a run that draws none, and the other way round."""
    config = facts.config
    if config is None:
        return
    from oxrl_core.algorithms.base import get_algorithm
    from oxrl_core.config.keys import section_of
    from oxrl_core.config.presets import preset_for
    from oxrl_core.errors import OxrlError

    try:
        algorithm = get_algorithm(config.algorithm.name)
    except OxrlError:  # an own loss whose file is not here any more
        return
    values = config.model_dump()
    preset = preset_for(algorithm, values, lora=config.model.lora.enabled).values()
    found: list[str] = []
    for key in DRAWING_KEYS if algorithm.kind == "sl" else ROW_KEYS if algorithm.lesson == "advantages" else ():
        section, name = key.split(".")
        fields = section_of(key)
        default: Any = fields.model_fields[name].default if fields is not None else None
        if values[section][name] not in (default, preset.get(key, default)):
            found.append(key)
    if not found:
        return
    what = "draws no completions" if algorithm.kind == "sl" else "takes no rows of completions"
    told = [seen_by(key, str(facts.setting(key))) for key in found]
    summary = f"{', '.join(found)}: {algorithm.name} {what}, so {'they have' if len(found) > 1 else 'it has'} no effect"
    advice = f"remove {'them' if len(found) > 1 else 'it'}; or choose an algorithm that reads {found[0]}"
    yield Seen("config_idle", 0.7, summary, "warning", told, next=advice)


@detector("keys of adapters that nobody asked for")
def unadapted(facts: RunFacts) -> Iterator[Seen]:
    """Rank, alpha or modules of adapters, where the whole model is trained."""
    config = facts.config
    if config is None or config.model.lora.enabled:
        return
    found = [
        f"model.lora.{name}"
        for name in type(config.model.lora).model_fields
        if getattr(config.model.lora, name) != type(config.model.lora).model_fields[name].default
    ]
    if found:
        told = [seen_by(key, str(facts.setting(key))) for key in found]
        summary = f"{', '.join(found)}: model.lora.enabled is false, so all weights are trained and no adapter is made"
        advice = "set model.lora.enabled: true, or remove the keys"
        yield Seen("config_idle", 0.7, summary, "warning", told, next=advice)


@detector("steps without a lesson")
def skipped(facts: RunFacts) -> Iterator[Seen]:
    """Most steps had nothing to learn from; where completions are chosen by their reward, the threshold may be why."""
    steps = facts.values("skipped")
    if facts.step < FEW or sum(steps) < SKIPPED * facts.step:
        return
    told = [seen_by("steps that changed no weight", sum(steps), facts.step)]
    kept = facts.values("selection/kept")
    told += [seen_by("selection/kept, mean", sum(kept) / len(kept), facts.step)] if kept else []
    scores = [sample.score or 0.0 for sample in facts.samples.all() if sample.has_verdict]
    threshold = facts.setting("selection.reward_threshold")
    summary, confidence, advice = f"{sum(steps):.0f} of {facts.step} steps had nothing to learn from", 0.8, ""
    if scores and kept and threshold is not None and float(threshold) > max(scores):
        told.append(seen_by("highest reward", max(scores)))
        summary += f": selection.reward_threshold {float(threshold):g} is above every reward, {max(scores):g} at most"
        advice = "set selection.reward_threshold in the units of the reward, to what a good completion gets"
        confidence = 0.95
    yield Seen("nothing_to_learn", confidence, summary, "error", told, next=advice, before=1)


@detector("the optimizer's epsilon")
def epsilon(facts: RunFacts) -> Iterator[Seen]:
    count = num_parameters(facts.initial_model) if facts.initial_model else 0
    norms = [value for value in facts.values("grad_norm") if value > 0]
    if not count or not norms or facts.setting("model.lora.enabled", False):
        return
    eps, clip = float(facts.setting("train.eps", 1e-8)), float(facts.setting("train.max_grad_norm", 1.0))
    typical = min(median(norms), clip) / count**0.5  # of one weight
    left = typical / (typical + eps)
    if left > DAMPED:
        return
    told = [seen_by("train.eps", eps), seen_by("typical gradient of a weight, after clipping", typical, facts.step)]
    key = "train.max_grad_norm" if clip < median(norms) and median(norms) / count**0.5 > 10 * eps else "train.eps"
    told += [seen_by("train.max_grad_norm", clip)]
    summary = f"train.eps {eps:g} is far above the gradient of a weight ({typical:.1g}): {left:.1g} of lr is left"
    advice = f"set {key} back to its default ({'1.0' if key == 'train.max_grad_norm' else '1e-8'})"
    yield Seen("lr_too_low", 0.95, summary, "error" if left < STOPPED else "warning", told, next=advice, before=1)


@detector("the scale of the adapters")
def adapter_scale(facts: RunFacts) -> Iterator[Seen]:
    if not facts.setting("model.lora.enabled", False):
        return
    rank, alpha = float(facts.setting("model.lora.rank", 16)), float(facts.setting("model.lora.alpha", 32))
    scale = alpha / rank
    moved = facts.trend("reward/mean" if facts.is_rl else "loss")
    if scale >= LORA_FAINT or moved is None:
        return
    fell = (moved.first - moved.last) / abs(moved.first) if moved.first else 0.0
    if moved.rises if facts.is_rl else fell > SLOW_FALL:
        return
    name = "the reward" if facts.is_rl else "the loss"
    told = [seen_by("model.lora.alpha / model.lora.rank", scale), seen_by(f"{name} at first", moved.first)]
    told.append(seen_by(f"{name} at last", moved.last, facts.step))
    summary = f"{name} hardly moves: what the adapters learn is multiplied by alpha / rank = {scale:.2g}"
    advice = f"set model.lora.alpha to {LORA_USUAL * rank:g} or more"
    yield Seen("reward_flat" if facts.is_rl else "loss_flat", 0.85, summary, "error", told, next=advice, before=1)


@detector("what the clipping leaves of the gradient")
def clipped_away(facts: RunFacts) -> Iterator[Seen]:
    """Nearly all tokens lie beyond the clip range after the first update of a step: nothing is learned from them."""
    share, reward = facts.values("ratio/clipped"), facts.trend("reward/mean")
    if len(share) < FEW or reward is None:
        return
    low, high = facts.setting("algorithm.clip_low"), facts.setting("algorithm.clip_high")
    # A range that is far narrower than the loss's own is to blame for less, and also for a reward that hardly rises.
    narrow = _is_narrow(facts)
    slow = not reward.rises or (narrow and reward.last < HALFWAY)
    if median(share) < (CLIPPED_NARROW if narrow else CLIPPED) or not slow:
        return
    told = [seen_by("ratio/clipped, median", median(share), facts.step)]
    told += [
        seen_by(f"algorithm.{name}", str(value)) for name, value in (("clip_low", low), ("clip_high", high)) if value
    ]
    told.append(seen_by("reward/mean, last third", reward.last, facts.step))
    summary = f"{median(share):.0%} of the tokens lie beyond the clip range, and the reward "
    summary += "hardly rises" if reward.rises else "does not rise"
    advice = "set algorithm.clip_low and clip_high to usual values (0.2), or make fewer updates of a step's rollouts"
    yield Seen("reward_flat", 0.8, summary, "error", told, next=advice, before=1)


def _is_narrow(facts: RunFacts) -> bool:
    """Whether the clip range is far narrower than that of the loss itself."""
    config = facts.config
    if config is None or facts.has_own_loss:
        return False
    from oxrl_core.algorithms.base import get_algorithm

    defaults = get_algorithm(config.algorithm.name).params
    ranges = [
        float(facts.setting(f"algorithm.{name}", defaults[name])) < NARROW * float(defaults[name])
        for name in ("clip_low", "clip_high")
        if defaults.get(name)
    ]
    return bool(ranges) and all(ranges)


@detector("what the mismatch correction leaves")
def dropped(facts: RunFacts) -> Iterator[Seen]:
    share = facts.values("mismatch/dropped")
    if len(share) < FEW or median(share) < DROPPED or float(facts.setting("rollout.top_p", 1.0)) < 1:
        return
    told = [seen_by("mismatch/dropped, median", median(share), facts.step)]
    told += [seen_by(f"algorithm.{name}", str(facts.setting(f"algorithm.{name}"))) for name in
             ("mismatch", "mismatch_low", "mismatch_high")]  # fmt: skip
    gap = facts.values("gap/mean")
    told += [seen_by("gap/mean, median", median(gap), facts.step)] if gap else []
    is_gap = bool(gap) and median(gap) > 0.01
    summary = f"the mismatch correction drops {median(share):.0%} of the tokens"
    summary += "" if is_gap else ", although trainer and sampler agree: its band is too narrow"
    yield Seen("logprob_gap" if is_gap else "reward_flat", 0.8, summary, "error", told, before=1)


@detector("the discount over a completion")
def forgotten(facts: RunFacts) -> Iterator[Seen]:
    """A reward at the end that hardly reaches the first tokens."""
    discount = float(facts.setting("algorithm.discount", 1.0) or 1.0)
    length, reward = facts.values("completion/length"), facts.trend("reward/mean")
    if not facts.is_rl or not length or discount >= 1 or reward is None:
        return
    if str(facts.setting("algorithm.advantage")) not in ("returns", "gae"):
        return
    left = discount ** median(length)
    if left > FORGOTTEN:
        return
    told = [seen_by("algorithm.discount", discount), seen_by("completion/length, median", median(length), facts.step)]
    rises = reward.rises
    if rises and (discount > SHORT_SIGHT or reward.last > HALFWAY * 1.5):
        return
    summary = f"of a reward at the end {left:.1g} reaches the first token, and the reward "
    summary += "hardly rises" if rises else "does not rise"
    advice = "set algorithm.discount to 1: rewards are given for whole completions"
    yield Seen("reward_flat", 0.8, summary, "warning" if rises else "error", told, next=advice, before=1)


@detector("the weight decay of a step")
def decay(facts: RunFacts) -> Iterator[Seen]:
    """Matrices that shrink faster than they can learn: lr x weight_decay is the share that each step takes away."""
    strength = float(facts.setting("train.weight_decay", 0.0) or 0.0)
    rates = facts.values("lr")
    lost = 1 - math.prod(max(0.0, 1 - rate * strength) for rate in rates)
    if strength <= DECAY_USUAL or lost < DECAYED:
        return
    told = [seen_by("train.weight_decay", strength), seen_by("share of each matrix that decayed", lost, facts.step)]
    name = "reward/mean" if facts.is_rl else "loss"
    course = facts.trend(name)
    told += [seen_by(f"{name}, last third", course.last, facts.step)] if course else []
    first = median(facts.values(name)[:3])
    # Where it learns all the same, the decay is a matter of taste.
    stuck = course is not None and (not course.rises if facts.is_rl else course.last > 0.6 * abs(first))
    summary = f"with weight decay {strength:g} every matrix loses {lost:.0%} of itself in {len(rates)} steps"
    advice = "set train.weight_decay to a usual value: 0 to 0.1"
    yield Seen("reward_flat" if facts.is_rl else "loss_flat", 0.85 if stuck else 0.6, summary,
               "error" if stuck else "warning", told, next=advice, before=1)  # fmt: skip
