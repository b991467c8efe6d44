"""Values of the configuration that a person gets wrong."""

from __future__ import annotations

from benchmarks.faults.define import Fault

FAULTS = [
    # open-r1#407: collapse at a rate taken from a recipe for another optimizer
    Fault("dr_grpo_lr_0.1", "Dr. GRPO at a learning rate of 0.1", {"lr_too_high"}, "dr_grpo", ["train.lr=0.1"]),
    # pain 5: the rate of a report on a model of 671B parameters
    Fault("gspo_lr_1e-9", "GSPO at a learning rate of 1e-9", {"lr_too_low"}, "gspo", ["train.lr=1e-9"]),
    # dr_grpo in TRL and verl: a constant that was meant for a sum over tokens divides what is a mean already
    Fault(
        "advantages_by_a_thousandth",
        "advantages count for a thousandth, and the entropy bonus is all that is left",
        {"entropy_high", "reward_flat"},
        "reinforce_pp",
        ["algorithm.advantage_scale=0.001", "train.steps=40"],
    ),
]
