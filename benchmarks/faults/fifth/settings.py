"""Values of the configuration that a person gets wrong."""

from __future__ import annotations

from benchmarks.faults.define import Fault
from benchmarks.faults.fourth_plants import GENTLE, half_taught

FAULTS = [
    Fault(
        "group_of_one",
        "one completion is drawn for each prompt, and compared with nothing",
        {"group_one", "wrong_request", "zero_variance", "nothing_to_learn"},
        overrides=["rollout.group_size=1", "train.prompts_per_step=64"],
    ),
    Fault(
        "critic_keys_without_critic",
        "the keys of a critic are set for an algorithm that has none",
        {"config_idle"},
        "cispo",
        ["algorithm.critic_lr=1e-4", "algorithm.gae_lambda=0.9", "algorithm.value_clip=0.5"],
    ),
    Fault(
        "margin_above_the_reward",
        "pairs need a margin of 1.5, and the reward lies between 0 and 1",
        {"nothing_to_learn"},
        "online_dpo",
        ["selection.min_margin=1.5", "train.steps=16"],
    ),
    Fault("ipo_lr_0.1", "IPO at a learning rate of 0.1", {"lr_too_high", "diverged"}, "ipo", ["train.lr=0.1"]),
    Fault("orpo_lr_1e-8", "ORPO at a learning rate of 1e-8", {"lr_too_low"}, "orpo", ["train.lr=1e-8"]),
    Fault(
        "entropy_bonus_of_a_robot",
        "the entropy bonus of another task makes a policy noise that could do something",
        {"entropy_high", "reward_falls"},
        "rloo",
        [*GENTLE[:2], "algorithm.entropy_coef=3", "train.lr=1e-3"],
        plant=half_taught,
    ),
    Fault(
        "twelve_documents",
        "data.train has a limit of twelve documents that somebody forgot",
        {"overfitting"},
        "cpt",
        ["data.train.0.limit=12", "train.rows_per_step=12", "train.steps=80", "train.eval_every=10"],
    ),
]
