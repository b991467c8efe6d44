"""Low-rank adapters: bound loudly, merged exactly, and never in the way of the names that other programs expect."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import peft
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from oxrl_core.errors import ModelError
from oxrl_core.models.heads import ScalarHead
from oxrl_core.models.multimodal import towers_pattern

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from oxrl_core.config.schema import LoraConfig

ADAPTER = "default"
REFERENCE_ADAPTER = "reference"  # a frozen copy of an earlier state of the adapters
Gather = Callable[[Sequence[nn.Parameter]], AbstractContextManager[object]]


def whole(parameters: Sequence[nn.Parameter]) -> AbstractContextManager[object]:
    """The gatherer of a model whose parameters are not sharded."""
    return nullcontext()


def add_lora(model: PreTrainedModel, lora: LoraConfig, seed: int, *, adapts_towers: bool = False) -> peft.PeftModel:
    """The model with frozen weights and fresh adapters (B = 0, so it computes the same); the seed decides A.

    A score head is no adapter: it is trained whole. Vision and audio towers get adapters only where that is asked for.
    """
    has_score = isinstance(getattr(model, "score", None), ScalarHead)
    is_causal = model.get_output_embeddings() is not None
    task = peft.TaskType.CAUSAL_LM if is_causal else peft.TaskType.FEATURE_EXTRACTION
    targets = lora.target_modules if lora.target_modules == "all-linear" else list(lora.target_modules)
    where = "model.lora.target_modules"
    linears = sorted({name.rsplit(".", 1)[-1] for name, part in model.named_modules() if isinstance(part, nn.Linear)})
    advice = f"this model has the linear layers: {', '.join(linears)}"
    settings = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        exclude_modules=None if adapts_towers else towers_pattern(model),
        task_type=peft.TaskType.SEQ_CLS if has_score else task,
    )
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            # Plain for a score head: PEFT's class for classifiers would hide a copy of it behind other names.
            adapted = peft.PeftModel(model, settings) if has_score else peft.get_peft_model(model, settings)
    except ValueError as error:
        raise ModelError(f"the adapters bind no module: {str(error).splitlines()[0]}", where, advice) from error
    bound = bound_modules(adapted)
    if not bound:
        raise ModelError("the adapters bind no module", where, advice)
    # One misspelt name among several binds nothing and would never be noticed.
    unbound = [] if targets == "all-linear" else [t for t in targets if not any(_matches(name, t) for name in bound)]
    if unbound:
        raise ModelError(f"no module is named {', '.join(unbound)}", where, advice)
    if has_score:
        model.score.requires_grad_(True)
    return adapted


def add_reference_adapter(model: peft.PeftModel) -> None:
    """Gives every adapter a frozen twin, which copy_adapter fills and reference_adapter switches to."""
    with torch.random.fork_rng(devices=[]):
        settings = copy.deepcopy(model.peft_config[ADAPTER])
        settings.inference_mode = True
        model.add_adapter(REFERENCE_ADAPTER, settings)
    for name, parameter in adapter_parameters(model, REFERENCE_ADAPTER).items():
        assert not parameter.requires_grad, name


def adapter_settings(model: peft.PeftModel) -> peft.LoraConfig:
    """The configuration that is written beside adapter_state_dict."""
    settings = copy.deepcopy(model.peft_config[ADAPTER])
    if settings.task_type == peft.TaskType.SEQ_CLS:
        settings.modules_to_save = ["score"]
    return settings


def adapter_parameters(model: nn.Module, adapter: str) -> dict[str, nn.Parameter]:
    """The parameters of one adapter under names that do not say which adapter it is."""
    mark = f".{adapter}."
    return {
        name.replace(mark, "."): parameter
        for name, parameter in model.named_parameters()
        if mark in name and any(part.startswith("lora_") for part in name.split("."))
    }


@contextlib.contextmanager
def reference_adapter(model: peft.PeftModel) -> Iterator[None]:
    """Within it the model computes with the reference adapter."""
    model.base_model.set_adapter(REFERENCE_ADAPTER, inference_mode=True)
    try:
        yield
    finally:
        model.base_model.set_adapter(ADAPTER)


def bound_modules(model: nn.Module) -> list[str]:
    """Names of the modules that carry an adapter."""
    return [name for name, part in model.named_modules() if isinstance(part, LoraLayer)]


def merged_state_dict(
    model: nn.Module, gather: Gather = whole, keep: bool = True, adapter: str | None = ADAPTER
) -> dict[str, Tensor]:
    """CPU copies of all weights under transformers names, adapters merged as W + scale * B A, a tied head left out.

    `adapter` none: the weights without adapters. The training weights are only read. With sharded weights every rank
    must call it; ranks with keep=False take part in the gathering and get an empty dict.
    """
    base = model.get_base_model() if isinstance(model, peft.PeftModel) else model
    layers: dict[str, LoraLayer] = {}
    if adapter is not None:
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
                value = (value.float() + layer.get_delta_weight(adapter).detach().float()).to(value.dtype)
            weights[name.replace(".base_layer.", ".")] = value.to("cpu", copy=True)
    if keep:
        persistent = base.state_dict(keep_vars=True).keys()
        for name, buffer in base.named_buffers():
            if name in persistent:
                weights[name.replace(".base_layer.", ".")] = buffer.detach().to("cpu", copy=True)
    return weights


def adapter_state_dict(model: peft.PeftModel, gather: Gather = whole, keep: bool = True) -> dict[str, Tensor]:
    """CPU copies of what is trained beside the frozen weights, under the names of a saved PEFT adapter.

    Same rules as merged_state_dict.
    """
    score = {name: p for name, p in model.named_parameters() if name.endswith("model.score.weight")}
    return copies(adapter_parameters(model, ADAPTER) | score, gather, keep)


def copies(parameters: Mapping[str, nn.Parameter], gather: Gather = whole, keep: bool = True) -> dict[str, Tensor]:
    """CPU copies of parameters; same rules as merged_state_dict."""
    weights: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        with gather([parameter]):
            if keep:
                weights[name] = parameter.detach().to("cpu", copy=True)
    return weights


def _adapter_parameters(layer: nn.Module) -> list[nn.Parameter]:
    return [p for name, p in layer.named_parameters() if name.startswith("lora_")]


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
