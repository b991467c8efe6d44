"""Losses, gradients and schedules with a fault in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.faults.define import HERE, Fault, own

PLANTS = HERE / "eighth_plants.py"


def layer_left_out(_run: Path) -> None:
    """The optimizer was given the parameters before the last layer was put in its place: it updates a copy."""
    from oxrl_core.engine.policy import PolicyEngine

    step = PolicyEngine.step

    def stepped(self: PolicyEngine) -> dict[str, float]:
        ours = [part for name, part in self.policy.named_parameters() if ".layers.1." in name]
        before = [part.detach().clone() for part in ours]
        metrics = step(self)
        for part, old in zip(ours, before, strict=True):
            part.data.copy_(old)
        return metrics

    PolicyEngine.step = stepped  # type: ignore[method-assign]


def whole_division(_run: Path) -> None:
    """The schedule divides whole numbers: 0 from the second step on."""
    from oxrl_core.engine import policy

    def rate(step: int, train: Any, total_steps: int) -> float:
        return train.lr * ((total_steps - step) // total_steps)

    policy.learning_rate = rate


def shifted_twice(_run: Path) -> None:
    """The collator of rollouts shifts the labels, and the model shifts them again."""
    from oxrl_core.engine.policy import PolicyEngine
    from oxrl_core.types import RolloutBatch

    right = PolicyEngine.logprobs

    def shifted(self: PolicyEngine, batch: Any, temperature: float, with_entropy: bool = False) -> Any:
        logprobs, entropy = right(self, batch, temperature, with_entropy)
        return (logprobs.roll(-1, dims=1) if isinstance(batch, RolloutBatch) else logprobs), entropy

    PolicyEngine.logprobs = shifted  # type: ignore[method-assign]


FAULTS = [
    # pain 17: an importance weight in half precision
    Fault(
        "inverse_probability_in_half",
        "an own loss weighs by the inverse probability of a completion, and overflows in float16",
        {"not_finite"},
        "sgrpo",
        [f"algorithm.name={own('sgrpo_with_inverse_probability', PLANTS)}"],
    ),
    # pain 6, open-unlearning#178: part of the model is not what the optimizer updates
    Fault(
        "last_layer_left_out",
        "the optimizer does not have the last layer's parameters",
        {"frozen_weights"},
        "sgrpo",
        [],
        plant=layer_left_out,
    ),
    # axolotl, LLaMA-Factory: // in place of / in a scheduler of one's own
    Fault(
        "schedule_divides_whole_numbers",
        "the schedule divides whole numbers, and the rate is 0 from the second step on",
        {"lr_floor", "lr_too_low"},
        "rloo",
        [],
        plant=whole_division,
    ),
    # transformers: a collator shifts the labels, and the model shifts them again
    Fault(
        "labels_shifted_twice",
        "the trainer reads the log-prob of the token after the right one",
        {"logprob_gap"},
        "dapo",
        [],
        plant=shifted_twice,
    ),
    # trl, rpo_alpha: the regularizer of RPO with the wrong sign
    Fault(
        "likelihood_term_backwards",
        "an own loss pushes the chosen completion's likelihood down beside DPO",
        {"learns_backwards"},
        "dpo",
        [f"algorithm.name={own('dpo_with_likelihood_backwards', PLANTS)}", "train.steps=60"],
    ),
]
