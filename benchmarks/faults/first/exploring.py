"""Policies that settle too early, or not at all."""

from __future__ import annotations

from benchmarks.faults.define import Fault

FAULTS = [
    Fault(
        "temperature_tiny",
        "completions are drawn at temperature 0.02",
        {"temperature_low"},
        overrides=["rollout.temperature=0.02"],
    ),
    Fault(
        "no_exploration",
        "large steps without an entropy bonus",
        {"entropy_low"},
        overrides=["algorithm.entropy_coef=0", "algorithm.advantage_scale=30", "train.lr=5e-3", "train.steps=40"],
    ),
    Fault(
        "entropy_bonus_huge",
        "the entropy bonus outweighs the reward",
        {"entropy_high"},
        overrides=["algorithm.entropy_coef=20", "train.steps=40"],
    ),
]
