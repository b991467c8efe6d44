"""Learning rates, gradients and signs."""

from __future__ import annotations

from pathlib import Path

from benchmarks.faults.define import Fault, own
from benchmarks.faults.patches import without_gradient


def frozen_layer(_run: Path) -> None:
    """One matrix gets no gradient."""
    without_gradient(lambda name: "q_proj.weight" in name and ".0." in name)


def no_gradient(_run: Path) -> None:
    """Nothing gets a gradient."""
    without_gradient(lambda _name: True)


def falls_at_once(_run: Path) -> None:
    """The schedule believes that the run has a tenth of its steps."""
    from oxrl_core.engine import policy, schedule

    right = schedule.learning_rate
    policy.learning_rate = lambda step, train, total_steps: right(step, train, max(1, total_steps // 10))


def nan_at_step_12(_run: Path) -> None:
    """A weight becomes NaN, as after a bad kernel."""
    from oxrl_core.engine.policy import PolicyEngine

    step = PolicyEngine.step

    def stepped(self: PolicyEngine) -> object:
        metrics = step(self)
        if self.num_steps == 12:
            next(iter(self.policy.parameters())).data.view(-1)[:64] = float("nan")
        return metrics

    PolicyEngine.step = stepped  # type: ignore[method-assign,assignment]


FAULTS = [
    Fault("lr_100x", "the learning rate is 100 times too high", {"lr_too_high"}, overrides=["train.lr=0.1"]),
    Fault("lr_100x_sft", "the learning rate is 100 times too high", {"lr_too_high"}, "sft", ["train.lr=0.2"]),
    Fault("lr_1e-12", "the learning rate is 1e-12", {"lr_too_low"}, overrides=["train.lr=1e-12"]),
    Fault("lr_1e-10_sft", "the learning rate is 1e-10", {"lr_too_low"}, "sft", ["train.lr=1e-10"]),
    Fault(
        "lr_at_floor",
        "the schedule ends after a tenth of the run",
        {"lr_floor"},
        "sft",
        ["train.lr_schedule=linear", "train.steps=100"],
        plant=falls_at_once,
    ),
    Fault(
        "sign_flipped_rl",
        "the loss has the wrong sign",
        {"learns_backwards"},
        overrides=[f"algorithm.name={own('flipped_sgrpo')}"],
    ),
    Fault(
        "sign_flipped_sft",
        "the loss has the wrong sign",
        {"learns_backwards"},
        "sft",
        [f"algorithm.name={own('flipped_sft')}"],
    ),
    Fault(
        "sign_flipped_dpo",
        "the loss has the wrong sign",
        {"learns_backwards"},
        "dpo",
        [f"algorithm.name={own('flipped_dpo')}"],
    ),
    Fault(
        "pairs_swapped",
        "chosen and rejected are swapped in the training data",
        {"learns_backwards"},
        "dpo",
        ["data.train.0.chosen_column=rejected", "data.train.0.rejected_column=chosen"],
    ),
    Fault(
        "frozen_layer",
        "one matrix gets no gradient",
        {"frozen_weights", "gradient_dead"},
        "sft",
        [],
        plant=frozen_layer,
    ),
    Fault("no_gradient", "no parameter gets a gradient", {"gradient_dead"}, "sft", [], plant=no_gradient),
    Fault("nan_injected", "a weight becomes NaN at step 12", {"not_finite"}, plant=nan_at_step_12),
    Fault(
        "lora_names_nothing",
        "target_modules names modules that do not exist",
        {"lora_target", "lora_unbound", "wrong_request"},
        "sft",
        ["model.lora.enabled=true", "model.lora.target_modules=[query, value]"],
    ),
]
