"""Where each value comes from, and what the numbers amount to, in words."""

from __future__ import annotations

import math
from typing import Any, cast

from pydantic import BaseModel, ConfigDict

from oxrl_core.algorithms.base import REFERENCED_SIGNALS, Algorithm, get_algorithm
from oxrl_core.config.beside import models_beside
from oxrl_core.config.keys import section_of
from oxrl_core.config.load import LoadedConfig, config_hash
from oxrl_core.config.presets import preset_for
from oxrl_core.config.schema import Config


class ExplainRow(BaseModel):
    """One value, the layer that set it, and why or what it is."""

    model_config = ConfigDict(frozen=True)

    key: str
    value: Any
    layer: str
    description: str


class Explanation(BaseModel):
    """A configuration for readers."""

    model_config = ConfigDict(frozen=True)

    name: str
    config_hash: str
    rows: list[ExplainRow]
    arithmetic: list[str]
    notes: list[str] = []


def explain(loaded: LoadedConfig, *, num_rows: int | None = None) -> Explanation:
    """Every value with its layer, and the batch arithmetic; `num_rows` (rows of an epoch) makes steps exact."""
    config = loaded.config
    values = config.model_dump(mode="json")
    algorithm = get_algorithm(config.algorithm.name)
    reasons = preset_for(algorithm, values, lora=config.model.lora.enabled).reasons()
    rows: list[ExplainRow] = []
    for key, layer in loaded.origins.items():
        description = describe_key(key) or _describe_parameter(key, algorithm, config.reward.name)
        if layer.startswith("preset ") and key in reasons:
            description = f"{description.rstrip('.')}. Preset: {reasons[key]}"
        rows.append(ExplainRow(key=key, value=_value(values, key), layer=layer, description=description))
    return Explanation(
        name=config.run.name,
        config_hash=config_hash(config),
        rows=rows,
        arithmetic=arithmetic(config, num_rows),
        notes=loaded.notes,
    )


def describe_key(key: str) -> str:
    """The one line of documentation of a key, or "" for a parameter of the loss itself."""
    section = section_of(key)
    info = section.model_fields.get(key.rpartition(".")[2]) if section else None
    return (info.description or "") if info else ""


def _describe_parameter(key: str, algorithm: Algorithm, reward: str) -> str:
    """Whose parameter a key is that the schema does not list."""
    section, _, name = key.partition(".")
    if section == "reward":
        return f"parameter of the reward {reward} (`oxrl rewards`)"
    return f"parameter of {algorithm.name} (default {algorithm.params.get(name)})"


def planned_steps(config: Config, num_rows: int | None) -> int | None:
    """Steps of the run; None where they follow from a number of rows that is not known."""
    if config.train.steps is not None:
        return config.train.steps
    if num_rows is None:
        return None
    is_rl = get_algorithm(config.algorithm.name).kind == "rl"
    per_step = config.train.prompts_per_step if is_rl else config.train.rows_per_step
    return max(1, math.ceil(config.train.epochs * num_rows / per_step))


def arithmetic(config: Config, num_rows: int | None = None) -> list[str]:
    """What a step, an update and the run consist of, each as one sentence with its numbers."""
    algorithm = get_algorithm(config.algorithm.name)
    of_kind = _of_rl if algorithm.kind == "rl" else _of_supervised
    return [*of_kind(config, algorithm, num_rows), *_models(config, algorithm)]


def _of_rl(config: Config, algorithm: Algorithm, num_rows: int | None) -> list[str]:
    data, rollout, train = config.data, config.rollout, config.train
    num_drawn = round(rollout.drawn_share * train.prompts_per_step)
    num_rollouts = num_drawn * rollout.group_size
    others = f"; {_n(train.prompts_per_step - num_drawn)} rows keep the completion of the data"
    freshness = "later ones compare with the first" if updates_of(config) > 1 else "every update is strictly on-policy"
    if rollout.sync_every > 1:
        freshness = f"the rollouts are up to {_n(rollout.sync_every - 1)} steps old"
    if rollout.pipeline:
        freshness = "the rollouts are 1 step old, drawn while the step before was learned from"
    row = data.max_prompt_tokens + rollout.max_completion_tokens
    updates = updates_of(config)
    rows, noun = _rows_of_update(config, algorithm)
    trained = rows * train.updates_per_step * rollout.max_completion_tokens
    lines = [
        (
            f"a step: {_n(num_drawn)} prompts x {_n(rollout.group_size)} completions = "
            f"{_n(num_rollouts)} rollouts in {_n(num_drawn)} groups"
            + (others if num_drawn < train.prompts_per_step else "")
        ),
        (
            f"tokens a step: at most {_n(num_rollouts)} rollouts x ({_n(data.max_prompt_tokens)} prompt + "
            f"{_n(rollout.max_completion_tokens)} completion) = {_n(num_rollouts * row)}, "
            f"of which at most {_n(trained)} are trained on"
        ),
        *_selection(config, algorithm),
        f"updates: {_n(updates)} a step"
        + (
            f" ({_n(train.passes_per_step)} passes of {_n(train.updates_per_step)})"
            if train.passes_per_step > 1
            else ""
        )
        + f", each on {_n(rows)} {noun}; {freshness}",
        _micro_batches(config, rows, row, noun),
        f"sampling: {_n(rollout.num_workers)} worker(s) draw {_n(num_rollouts / rollout.num_workers)} rollouts each"
        + (f", up to {_n(rollout.max_draws)} times a step" if rollout.dynamic_sampling else "")
        + (f"; new weights every {_n(rollout.sync_every)} steps" if rollout.sync_every > 1 else ""),
    ]
    lines += _run(config, num_rows, train.prompts_per_step, "prompts", updates=updates)
    steps = planned_steps(config, num_rows)
    if steps is not None:
        lines.append(f"rollouts in all: {_n(steps)} steps x {_n(num_rollouts)} = {_n(steps * num_rollouts)}")
    return lines


def updates_of(config: Config) -> int:
    """Optimizer updates of an RL step."""
    return config.train.updates_per_step * config.train.passes_per_step


def _rows_of_update(config: Config, algorithm: Algorithm) -> tuple[float, str]:
    """Most rows that one update trains on, and what they are."""
    rollout, train = config.rollout, config.train
    num_rollouts = train.prompts_per_step * rollout.group_size
    if algorithm.lesson == "kept":
        kept = min(config.selection.max_per_prompt, rollout.group_size)
        return train.prompts_per_step * kept / train.updates_per_step, "rollouts"
    if algorithm.lesson == "best_and_worst":
        return 2 * train.prompts_per_step / train.updates_per_step, "rows of pairs"
    if algorithm.lesson == "self_play":
        return 2 * num_rollouts / train.updates_per_step, "rows of pairs"
    if algorithm.lesson == "mixed":
        num_drawn = round(rollout.drawn_share * train.prompts_per_step)
        rows = num_drawn * rollout.group_size + train.prompts_per_step - num_drawn
        return rows / train.updates_per_step, "rows"
    return num_rollouts / train.updates_per_step, "rollouts"


def _selection(config: Config, algorithm: Algorithm) -> list[str]:
    """What of the drawn completions is learned from, where that is not all of them."""
    rollout, train, selection = config.rollout, config.train, config.selection
    if algorithm.lesson == "kept":
        most = f"{_n(min(selection.max_per_prompt, rollout.group_size))} of a prompt's {_n(rollout.group_size)}"
        return [f"kept: completions with a reward of at least {selection.reward_threshold:g}, at most {most}"]
    if algorithm.lesson == "best_and_worst":
        where = f"where their rewards differ by more than {selection.min_margin:g}"
        return [f"pairs: at most {_n(train.prompts_per_step)} a step, best and worst completion of a prompt {where}"]
    if algorithm.lesson == "self_play":
        num_pairs = train.prompts_per_step * rollout.group_size
        return [f"pairs: {_n(num_pairs)} a step, the completion of the data against each one that the policy drew"]
    return []


def _of_supervised(config: Config, algorithm: Algorithm, num_rows: int | None) -> list[str]:
    data, train = config.data, config.train
    items = train.rows_per_step
    noun = {"pairs": "pairs", "labeled": "labeled rows", "documents": "texts"}.get(algorithm.lesson, "examples")
    rows = 2 * items if algorithm.lesson in ("pairs", "labeled") else items
    two = {
        "pairs": f": {_n(rows)} rows, chosen and rejected",
        "labeled": f": {_n(rows)} rows, each with the completion of another row that is measured and not trained on",
    }.get(algorithm.lesson, "")
    over = noun if algorithm.lesson in ("pairs", "labeled") else "completion tokens"
    lines = [
        f"a step: {_n(items)} {noun} in one update{two}",
        (
            f"tokens a step: at most {_n(rows)} {'rows' if two else noun} x {_n(data.max_length)} = "
            f"{_n(rows * data.max_length)}; the loss is a mean over the {over} of the whole step"
        ),
        _micro_batches(config, rows, data.max_length, "rows" if two else noun),
    ]
    return lines + _run(config, num_rows, items, noun, updates=1)


def _models(config: Config, algorithm: Algorithm) -> list[str]:
    """The models beside the policy, and what they cost."""
    switches, beside = config.algorithm, models_beside(config, algorithm)
    lines: list[str] = []
    origin = "the policy of the last sync" if switches.reference == "synced" else "the initial policy"
    if switches.kl_coef:
        place = "taken off the reward of each token" if switches.kl_place == "reward" else "a term of the loss"
        lines.append(
            f"KL: {switches.kl_coef:g} x {switches.kl_estimator} to {origin}, {place}; it costs a second forward pass"
        )
    elif algorithm.lesson == "advantages":
        lines.append("KL: off, so no reference model is loaded")
    cost = {
        "none": "",
        "cached": "its log-probs are measured for all rows before step 0, and it is freed",
        "adapter": "the weights of the policy without its adapters, so no second model is held",
        "model": "a second model in memory, and a forward pass without gradient for each row",
    }[beside.reference]
    if cost:
        lines.append(f"reference: {origin}; {cost}")
    elif algorithm.lesson in ("pairs", "labeled") and algorithm.signals not in REFERENCED_SIGNALS:
        lines.append(f"reference: none, {algorithm.name} compares with no other policy")
    if beside.critic == "separate":
        rate = switches.critic_lr or config.train.lr
        lines.append(f"critic: a model of its own with its own optimizer (learning rate {rate:g}); trainer memory x 2")
    if beside.critic == "shared":
        lines.append(f"critic: a head on the policy's last state; its loss counts {switches.value_coef:g}")
    if beside.teacher:
        lines.append(f"teacher: {beside.teacher}, frozen; a forward pass for each row, distributions chunk by chunk")
    if beside.reward_model:
        lines.append(f"reward model: {beside.reward_model}, in a worker of its own")
    return lines


def _micro_batches(config: Config, num_items: float, longest: int, noun: str) -> str:
    """How an update is cut into forward passes on each rank, in the worst case."""
    train = config.train
    per_rank = math.ceil(num_items / train.num_workers)
    rows = max(1, train.micro_batch_tokens // longest)
    passes = math.ceil(per_rank / rows)
    return (
        f"ranks: {_n(train.num_workers)}, each takes {_n(per_rank)} {noun} of an update; a forward pass holds up to "
        f"{_n(train.micro_batch_tokens)} tokens, so {_n(rows)} {noun} of the longest kind ({_n(longest)} tokens): at "
        f"most {_n(passes)} micro-batch{'' if passes == 1 else 'es'}"
    )


def _run(config: Config, num_rows: int | None, per_step: int, noun: str, updates: int) -> list[str]:
    train = config.train
    steps = planned_steps(config, num_rows)
    lines: list[str] = []
    if num_rows is not None:
        lines.append(f"an epoch: {_n(num_rows)} rows / {_n(per_step)} {noun} a step = {num_rows / per_step:,.4g} steps")
    if steps is None:
        lines.append(f"the run: {train.epochs:g} epoch(s) over the data, {_n(per_step)} {noun} a step")
    else:
        passes = f", {steps * per_step / num_rows:,.3g} passes over the data" if num_rows else ""
        lines.append(
            f"the run: {_n(steps)} steps = {_n(steps * updates)} updates = {_n(steps * per_step)} {noun}{passes}"
        )
    shape = f"{train.lr:g}" + (f" after {_n(train.warmup_steps)} updates of warm-up" if train.warmup_steps else "")
    if train.lr_schedule != "constant":
        shape += f", falling ({train.lr_schedule}) to {train.lr * train.lr_floor:g}"
    lines.append(f"learning rate: {shape}")
    return lines


def _n(number: float) -> str:
    """A number with thousands separators, and decimals only where it has some."""
    return f"{number:,.0f}" if float(number).is_integer() else f"{number:,.1f}"


def _value(values: dict[str, Any], key: str) -> Any:
    value: Any = values
    for part in key.split("."):
        value = cast("list[Any]", value)[int(part)] if isinstance(value, list) else value[part]
    return value
