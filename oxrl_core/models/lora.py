"""Low-rank adapters: bound loudly, merged exactly, and never in the way of the names that other programs expect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import peft
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from oxrl_core.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from oxrl_core.config.schema import LoraConfig

ADAPTER = "default"
Gather = Callable[[Sequence[nn.Parameter]], AbstractContextManager[object]]


def whole(parameters: Sequence[nn.Parameter]) -> AbstractContextManager[object]:
    """The gatherer of a model whose parameters are not sharded."""
    return nullcontext()


def add_lora(model: PreTrainedModel, lora: LoraConfig, seed: int) -> peft.PeftModel:
    """The model with frozen weights and fresh adapters (B = 0, so it computes the same); the seed decides A."""
    targets = lora.target_modules if lora.target_modules == "all-linear" else list(lora.target_modules)
    where = "model.lora.target_modules"
    linears = sorted({name.rsplit(".", 1)[-1] for name, part in model.named_modules() if isinstance(part, nn.Linear)})
    advice = f"this model has the linear layers: {', '.join(linears)}"
    settings = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        task_type=peft.TaskType.CAUSAL_LM,
    )
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            adapted = peft.get_peft_model(model, settings)
    except ValueError as error:
        raise ModelError(f"the adapters bind no module: {str(error).splitlines()[0]}", where, advice) from error
    bound = bound_modules(adapted)
    if not bound:
        raise ModelError("the adapters bind no module", where, advice)
    # One misspelt name among several binds nothing and would never be noticed.
    unbound = [] if targets == "all-linear" else [t for t in targets if not any(_matches(name, t) for name in bound)]
    if unbound:
        raise ModelError(f"no module is named {', '.join(unbound)}", where, advice)
    return adapted


def bound_modules(model: nn.Module) -> list[str]:
    """Names of the modules that carry an adapter."""
    return [name for name, part in model.named_modules() if isinstance(part, LoraLayer)]


def merged_state_dict(model: nn.Module, gather: Gather = whole, keep: bool = True) -> dict[str, Tensor]:
    """CPU copies of all weights under transformers names, adapters merged as W + scale * B A, a tied head left out.

    The training weights are only read. With sharded weights every rank must call it; ranks with keep=False take part
    in the gathering and get an empty dict.
    """
    base = model.get_base_model() if isinstance(model, peft.PeftModel) else model
    layers = {name: part for name, part in base.named_modules() if isinstance(part, LoraLayer)}
    weights: dict[str, Tensor] = {}
    for name, parameter in base.named_parameters():
        owner, _, last = name.rpartition(".")
        if any(part.startswith("lora_") for part in name.split(".")):
            continue
        layer = layers.get(owner.removesuffix(".base_layer")) if last == "weight" else None
        adapters = _adapter_parameters(layer) if layer is not None else []
        with gather([parameter, *adapters]):
            if not keep:
                continue
            value = parameter.detach()
            if layer is not None:
                value = (value.float() + layer.get_delta_weight(ADAPTER).detach().float()).to(value.dtype)
            weights[name.replace(".base_layer.", ".")] = value.to("cpu", copy=True)
    if keep:
        persistent = base.state_dict(keep_vars=True).keys()
        for name, buffer in base.named_buffers():
            if name in persistent:
                weights[name.replace(".base_layer.", ".")] = buffer.detach().to("cpu", copy=True)
    return weights


def adapter_state_dict(model: peft.PeftModel, gather: Gather = whole, keep: bool = True) -> dict[str, Tensor]:
    """CPU copies of the adapters alone, under the names of a saved PEFT adapter; same rules as merged_state_dict."""
    weights: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if any(part.startswith("lora_") for part in name.split(".")):
            with gather([parameter]):
                if keep:
                    weights[name.replace(f".{ADAPTER}.", ".")] = parameter.detach().to("cpu", copy=True)
    return weights


def _adapter_parameters(layer: nn.Module) -> list[nn.Parameter]:
    return [p for name, p in layer.named_parameters() if name.startswith("lora_")]


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
