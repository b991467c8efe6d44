"""Losses of one's own, dropout, and half precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.faults.define import HERE, Fault, own
from benchmarks.faults.patches import after_building, before_updates

PLANTS = HERE / "sixth_plants.py"
DROPPED = 0.1
OVERFLOWS_FROM = 8


def dropout_stays_on(_run: Path) -> None:
    """The blocks of the trained model drop a tenth of what they compute, but not where they are only read."""
    import torch

    def drop(module: Any, _inputs: Any, output: Any) -> Any:
        return torch.nn.functional.dropout(output, DROPPED) if module.training else output

    def with_dropout(engine: Any) -> None:
        for name, module in engine.policy.named_modules():
            if name.endswith(".mlp"):
                module.register_forward_hook(drop)

    after_building(with_dropout)


def overflows_in_float16(_run: Path) -> None:
    """DeepSpeed's scaler of float16 finds an overflow at every scale that it tries, and gives up at the smallest."""
    import torch
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

    def overflow(engine: Any) -> None:
        if engine.num_steps < OVERFLOWS_FROM:
            return
        scaler = DynamicLossScaler(
            init_scale=2**16,
            scale_window=1000,
            min_scale=1,
            delayed_shift=1,
            consecutive_hysteresis=False,
            raise_error_at_min_scale=True,
            dtype=torch.half,
        )
        while True:
            scaler.update_scale(True)

    before_updates(overflow)


FAULTS = [
    Fault(  # the ratio of an own loss is written the wrong way round
        "ratio_inverted",
        "an own loss has the ratio of the old policy to the new one",
        {"learns_backwards", "reward_falls"},
        overrides=[f"algorithm.name={own('sgrpo_with_ratio_inverted', PLANTS)}", "algorithm.entropy_coef=0.01"],
    ),
    Fault(  # "element 0 of tensors does not require grad"
        "loss_detached",
        "an own loss is detached from what it was computed of",
        {"no_grad_fn", "gradient_dead", "unexplained_failure"},
        overrides=[f"algorithm.name={own('sgrpo_detached', PLANTS)}", "algorithm.entropy_coef=0"],
    ),
    Fault(  # pain 17; four tokens and a large beta stand for the sums of a thousand tokens
        "softplus_by_hand",
        "an own loss computes log(1 + exp(x)), and exp overflows",
        {"not_finite"},
        "dpo",
        [f"algorithm.name={own('dpo_with_softplus_by_hand', PLANTS)}", "algorithm.beta=100"],
    ),
    Fault(  # trl#3234, unsloth-zoo#832
        "dropout_stays_on",
        "the trainer drops a tenth of its activations, and the sampler none",
        {"logprob_gap"},
        plant=dropout_stays_on,
    ),
    Fault(  # DeepSpeedExamples#418, ms-swift#4374
        "loss_scale_at_its_end",
        "from step 9 on every gradient overflows in float16",
        {"loss_scale", "not_finite"},
        "sft",
        [],
        plant=overflows_in_float16,
    ),
]
