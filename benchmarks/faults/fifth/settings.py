"""Values of the configuration that a person gets wrong."""

from __future__ import annotations

from benchmarks.faults.define import Fault
from benchmarks.faults.fourth_plants import GENTLE, half_taught

FAULTS = [
    Fault(
        "batch_size_of_sft",
        "the batch size of a run with drawn completions is set with the keys of a supervised one",
        {"config_idle"},
        "gspo",
        ["train.rows_per_step=256", "data.packing=false", "data.max_length=64"],
    ),
    Fault(
        "margin_above_the_reward",
        "pairs need a margin of 1.5, and the reward lies between 0 and 1",
        {"nothing_to_learn"},
        "online_dpo",
        ["selection.min_margin=1.5", "train.steps=16"],
    ),
    Fault(
        "entropy_bonus_of_a_robot",
        "the entropy bonus of another task makes a policy noise that could do something",
        {"entropy_high", "reward_falls"},
        "cispo",
        [*GENTLE[:2], "algorithm.entropy_coef=3", "train.lr=1e-3"],
        plant=half_taught,
    ),
]
