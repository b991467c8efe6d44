"""Rewards that can be had the cheap way."""

from __future__ import annotations

from benchmarks.faults.define import Fault, own

FAULTS = [
    Fault(
        "length_hacked",
        "the judge pays for length",
        {"length_hacking"},
        overrides=[
            f"reward.name={own('loves_length')}",
            "rollout.stop_at_eos=true",
            "rollout.max_completion_tokens=24",
            "train.steps=40",
        ],
    ),
    Fault(
        "constant_hacked",
        "one string satisfies the verifier",
        {"constant_answer"},
        overrides=[f"reward.name={own('loves_zeros')}", "train.steps=50", "train.prompts_per_step=16"],
    ),
]
