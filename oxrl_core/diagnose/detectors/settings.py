"""Keys that were set and do nothing, and keys that undo what others ask for."""

from __future__ import annotations

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
