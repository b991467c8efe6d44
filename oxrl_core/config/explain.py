"""Where each value comes from, and what the numbers amount to, in words."""

from __future__ import annotations

import math
from typing import Any, cast

from pydantic import BaseModel, ConfigDict

from oxrl_core.algorithms.base import get_algorithm
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
    reasons = preset_for(config.algorithm.name, algorithm.kind, lora=config.model.lora.enabled).reasons()
    rows: list[ExplainRow] = []
    for key, layer in loaded.origins.items():
        description = describe_key(key) or f"parameter of {algorithm.name} (default {algorithm.params.get(key[10:])})"
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
    is_rl = get_algorithm(config.algorithm.name).kind == "rl"
    return _of_rl(config, num_rows) if is_rl else _of_supervised(config, num_rows)


def _of_rl(config: Config, num_rows: int | None) -> list[str]:
    data, rollout, train = config.data, config.rollout, config.train
    num_rollouts = train.prompts_per_step * rollout.group_size
    row = data.max_prompt_tokens + rollout.max_completion_tokens
    trained = num_rollouts * rollout.max_completion_tokens
    lines = [
        (
            f"a step: {_n(train.prompts_per_step)} prompts x {_n(rollout.group_size)} completions = "
            f"{_n(num_rollouts)} rollouts in {_n(train.prompts_per_step)} groups"
        ),
        (
            f"tokens a step: at most {_n(num_rollouts)} rollouts x ({_n(data.max_prompt_tokens)} prompt + "
            f"{_n(rollout.max_completion_tokens)} completion) = {_n(num_rollouts * row)}, "
            f"of which at most {_n(trained)} are trained on"
        ),
        f"updates: {_n(train.updates_per_step)} a step, each on {_n(num_rollouts / train.updates_per_step)} rollouts; "
        + (
            "every update is strictly on-policy" if train.updates_per_step == 1 else "later ones compare with the first"
        ),
        _micro_batches(config, num_rollouts / train.updates_per_step, row, "rollouts"),
        f"sampling: {_n(rollout.num_workers)} worker(s) draw {_n(num_rollouts / rollout.num_workers)} rollouts each",
    ]
    lines += _run(config, num_rows, train.prompts_per_step, "prompts", updates=train.updates_per_step)
    steps = planned_steps(config, num_rows)
    if steps is not None:
        lines.append(f"rollouts in all: {_n(steps)} steps x {_n(num_rollouts)} = {_n(steps * num_rollouts)}")
    kl = config.algorithm.kl_coef
    lines.append(
        f"KL: {kl:g} x {config.algorithm.kl_estimator} to the initial policy, which costs a second forward pass"
        if kl
        else "KL: off, so no reference model is loaded"
    )
    return lines


def _of_supervised(config: Config, num_rows: int | None) -> list[str]:
    data, train = config.data, config.train
    rows = train.rows_per_step
    lines = [
        f"a step: {_n(rows)} examples in one update",
        (
            f"tokens a step: at most {_n(rows)} examples x {_n(data.max_length)} = {_n(rows * data.max_length)}; "
            "the loss is a mean over the completion tokens of the whole step"
        ),
        _micro_batches(config, rows, data.max_length, "examples"),
    ]
    return lines + _run(config, num_rows, rows, "examples", updates=1)


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
