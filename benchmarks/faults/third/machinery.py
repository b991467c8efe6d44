"""Samplers, adapters, weights and gradients that are not what they should be."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

from benchmarks.faults.define import Fault
from benchmarks.faults.patches import after_building, before_updates, without_gradient

hoard: list[bytearray] = []


def _sampler_when_built(change: Callable[[Any], None]) -> None:
    """Has `change` called with every sampler worker once it stands."""
    from oxrl_core.rollout.hf_worker import TransformersWorker

    build = TransformersWorker.__init__

    def built(self: TransformersWorker, *arguments: Any, **named: Any) -> None:
        build(self, *arguments, **named)
        change(self)

    TransformersWorker.__init__ = built  # type: ignore[method-assign]


def _as_loaded(change: Callable[[str, Any], None]) -> None:
    """Has `change` called with the name and each parameter of the trained model, before an optimizer has them."""
    from oxrl_core.engine.policy import PolicyEngine

    load = PolicyEngine._load_trained

    def loaded(self: PolicyEngine) -> Any:
        model = load(self)
        for name, parameter in model.named_parameters():
            change(name, parameter)
        return model

    PolicyEngine._load_trained = loaded  # type: ignore[method-assign]


def draws_from_a_capture(_run: Path) -> None:
    """The sampler draws from graphs captured with the first weights; new ones go to the model that it shows."""
    from oxrl_core.rollout.hf_worker import TransformersWorker

    right = TransformersWorker._decode

    def captured(self: Any, *arguments: Any) -> Any:
        if not hasattr(self, "captured"):
            self.captured = deepcopy(self.model)
        shown, self.model = self.model, self.captured
        try:
            return right(self, *arguments)
        finally:
            self.model = shown

    TransformersWorker._decode = captured  # type: ignore[method-assign]


def one_layer_not_sent(_run: Path) -> None:
    """The second layer keeps its first weights: its names were written otherwise and passed over."""
    from oxrl_core.rollout.hf_worker import TransformersWorker

    right = TransformersWorker.load_weights

    def partial(self: Any, weights: Any, version: int) -> None:
        own = self.model.state_dict()
        right(self, {name: own[name] if ".layers.1." in name else value for name, value in weights.items()}, version)

    TransformersWorker.load_weights = partial  # type: ignore[method-assign]


def sampler_in_bfloat16(_run: Path) -> None:
    """The sampler takes its precision from config.json, the trainer computes in float32."""
    import torch

    from oxrl_core.rollout import hf_worker

    hf_worker.compute_device = lambda config: ("cpu", torch.bfloat16)


def sampler_with_other_rope(_run: Path) -> None:
    """The sampler's engine reads another rope_theta."""

    def other(worker: Any) -> None:
        worker.model.model.rotary_emb.inv_freq.mul_(0.7)

    _sampler_when_built(other)


def adapters_not_sent(_run: Path) -> None:
    """The weights that are sent are those of the base model: the adapters are not merged into them."""
    from oxrl_core.engine import policy

    right = policy.merged_state_dict
    policy.merged_state_dict = lambda model, gather, keep: right(model, gather, keep=keep, adapter=None)  # type: ignore[assignment]


def adapters_switched_off(_run: Path) -> None:
    """Adapters were switched off for the reference, and never on again: their scale is 0."""
    from peft.tuners.lora import LoraLayer

    def switch_off(engine: Any) -> None:
        for part in engine.policy.modules():
            if isinstance(part, LoraLayer):
                part.scaling["default"] = 0.0

    after_building(switch_off)


def backbone_of_rm_frozen(_run: Path) -> None:
    """A `requires_grad_(False)` of an earlier experiment: only the head learns."""

    def freeze(name: str, parameter: Any) -> None:
        if ".layers." in name or "embed" in name:
            parameter.requires_grad_(False)

    _as_loaded(freeze)


def values_detached(_run: Path) -> None:
    """The critic's states are detached: nothing but its head gets a gradient."""

    def detach(engine: Any) -> None:
        if engine.head == "value":
            for name, parameter in engine.policy.named_parameters():
                if "value_head" not in name:
                    parameter.register_hook(lambda gradient: gradient * 0)

    after_building(detach)


def norms_frozen(_run: Path) -> None:
    """A fused kernel gives no gradient to its norms."""
    without_gradient(lambda name: "layernorm" in name)


def nan_in_one_row(_run: Path) -> None:
    """One row of the embeddings came as NaN."""

    def spoil(name: str, parameter: Any) -> None:
        if "embed_tokens" in name:
            parameter.data[6] = float("nan")

    _as_loaded(spoil)


def overflow_at_step_15(_run: Path) -> None:
    """A kernel overflows once, in one matrix."""

    def listen(engine: Any) -> None:
        for name, parameter in engine.policy.named_parameters():
            if "down_proj" in name and ".1." in name:
                parameter.register_hook(
                    lambda gradient: gradient * float("inf") if engine.num_steps == 15 else gradient
                )

    after_building(listen)


def other_reference(_run: Path) -> None:
    """The reference is loaded from the folder of an earlier experiment."""
    import torch

    from oxrl_core.engine.policy import PolicyEngine

    load = PolicyEngine._load_reference

    def other(self: PolicyEngine) -> Any:
        reference = load(self)
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in reference.parameters():
                parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator))
        return reference

    PolicyEngine._load_reference = other  # type: ignore[method-assign]


def weights_rounded(_run: Path) -> None:
    """Weights are stored in bfloat16, without a copy in float32."""
    import torch

    step = torch.optim.AdamW.step

    def rounded(self: Any, *arguments: Any, **named: Any) -> Any:
        answer = step(self, *arguments, **named)
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.copy_(parameter.bfloat16().float())
        return answer

    torch.optim.AdamW.step = rounded  # type: ignore[method-assign]


def updates_skipped(_run: Path) -> None:
    """The optimizer holds parameters of a model that was replaced by another since."""
    import torch

    torch.optim.AdamW.step = lambda self, *_arguments, **_named: None  # type: ignore[method-assign]


def neighbour_takes_the_cores(_run: Path) -> None:
    """From step 20 on another job has most of the machine."""

    def wait(engine: Any) -> None:
        if engine.num_steps >= 20:
            time.sleep(0.3)

    before_updates(wait)


def losses_kept(_run: Path) -> None:
    """Losses are kept for a plot with all that hangs on them: eight megabytes a step."""
    before_updates(lambda _engine: hoard.append(bytearray(b"x") * (8 * 2**20)))


FAULTS = [
    Fault(
        "draws_from_a_capture",
        "the sampler draws from captured graphs with old weights",
        {"logprob_gap", "stale_sampler", "weight_sync"},
        plant=draws_from_a_capture,
    ),
    Fault(
        "one_layer_not_sent",
        "one layer is passed over when weights are sent",
        {"weight_sync", "logprob_gap"},
        "rloo",
        plant=one_layer_not_sent,
    ),
    Fault(
        "sampler_in_bfloat16",
        "the sampler computes in bfloat16, the trainer in float32",
        {"logprob_gap", "weight_sync"},
        plant=sampler_in_bfloat16,
    ),
    Fault(
        "sampler_with_other_rope",
        "sampler and trainer have other positions",
        {"logprob_gap", "weight_sync"},
        "cispo",
        plant=sampler_with_other_rope,
    ),
    Fault(
        "adapters_not_sent",
        "the sampler gets the weights without the adapters",
        {"weight_sync", "lora_unbound"},
        overrides=["model.lora.enabled=true", "train.lr=1e-2"],
        plant=adapters_not_sent,
    ),
    Fault(
        "adapters_switched_off",
        "the scale of the adapters is 0",
        {"gradient_dead", "lora_unbound"},
        "sft",
        ["model.lora.enabled=true", "train.lr=1e-2"],
        plant=adapters_switched_off,
    ),
    Fault(
        "backbone_of_rm_frozen",
        "only the head of a reward model is trained",
        {"frozen_weights", "loss_flat"},
        "rm",
        ["train.steps=60"],
        plant=backbone_of_rm_frozen,
    ),
    Fault(
        "values_detached",
        "the critic's body gets no gradient",
        {"gradient_dead", "frozen_weights"},
        "ppo",
        ["train.prompts_per_step=8", "train.steps=16"],
        plant=values_detached,
    ),
    Fault("norms_frozen", "no norm gets a gradient", {"frozen_weights", "gradient_dead"}, "orpo", plant=norms_frozen),
    Fault("nan_in_one_row", "one row of the embeddings is NaN", {"not_finite"}, "sft", plant=nan_in_one_row),
    Fault("overflow_at_step_15", "one gradient overflows once", {"not_finite"}, "dpo", plant=overflow_at_step_15),
    Fault(
        "other_reference",
        "the reference is another model",
        {"kl_high"},
        "ppo",
        ["train.prompts_per_step=8", "train.steps=16"],
        plant=other_reference,
    ),
    Fault(
        "weights_rounded",
        "weights are kept in bfloat16 at a small learning rate",
        {"lost_updates", "weights_unmoved"},
        "sft",
        ["train.lr=1e-5"],
        plant=weights_rounded,
    ),
    Fault(
        "updates_skipped",
        "the optimizer updates another model",
        {"weights_unmoved", "loss_flat"},
        "kto",
        plant=updates_skipped,
    ),
    Fault(
        "neighbour_takes_the_cores",
        "another job takes the machine from step 20 on",
        {"slow_step"},
        "sft",
        plant=neighbour_takes_the_cores,
    ),
    Fault(
        "losses_kept",
        "every step keeps eight megabytes",
        {"memory_leak"},
        "dpo",
        ["train.steps=60"],
        plant=losses_kept,
    ),
]
