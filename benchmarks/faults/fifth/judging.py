"""Rewards that are wrong, late, absent, or paid for something else."""

from __future__ import annotations

from benchmarks.faults.define import HERE, Fault, own
from benchmarks.faults.fourth_plants import GENTLE, half_taught
from benchmarks.faults.plants import made_rows
from oxrl_core.datasets.tiny import reverse3

PLANTS = HERE / "fifth_plants.py"


def _mostly_without_answers() -> str:
    """The join with the table of answers has found one of six."""
    return made_rows(
        "mostly-without-answers",
        [
            {"prompt": row["prompt"], "answer": row["answer"] if number % 6 == 0 else ""}
            for number, row in enumerate(reverse3("train", 0))
        ],
    )


FAULTS = [
    Fault(
        "answer_must_be_boxed",
        "the verifier wants a sign before the answer, and the references have none",
        {"verifier_rejects_references"},
        "dapo",
        [f"reward.name={own('wants_a_box', PLANTS)}", "train.steps=32"],
    ),
    Fault(
        "no_tests_no_failures",
        "five of six rows have no tests, and nothing fails there",
        {"too_easy", "reward_full", "zero_variance"},
        "rloo",
        [f"data.train.0.name={_mostly_without_answers()}", f"reward.name={own('passes_without_tests', PLANTS)}"],
    ),
    Fault(
        "errors_are_zeros",
        "from step 10 on every error of the verifier becomes a zero in silence",
        {"reward_zero", "reward_falls", "zero_variance"},
        "gspo",
        [f"reward.name={own('errors_are_zeros', PLANTS)}", *GENTLE],
        plant=half_taught,
    ),
    Fault(
        "replica_with_another_prompt",
        "one of three replicas of the judge counts mistakes",
        {"reward_inconsistent", "verifier_rejects_references", "reward_flat"},
        "ppo",
        [f"reward.name={own('of_two_replicas', PLANTS)}", *GENTLE, "train.prompts_per_step=8"],
        plant=half_taught,
    ),
    Fault(
        "majority_is_right",
        "what most completions of a group say counts as right",
        {"constant_answer", "entropy_low", "zero_variance"},
        "dr_grpo",
        [f"reward.name={own('agrees_with_most', PLANTS)}", "train.steps=40"],
    ),
    Fault(
        "a_point_for_each_step",
        "the judge counts the steps of a solution",
        {"length_hacking", "truncation"},
        "gspo",
        [
            f"reward.name={own('a_point_for_each_step', PLANTS)}",
            "rollout.stop_at_eos=true",
            "rollout.max_completion_tokens=16",
            "train.steps=30",
            "train.lr=4e-4",
        ],
    ),
    Fault(
        "judge_cannot_be_parsed",
        "from step 8 on the judge's answers cannot be parsed and count as 3 of 5",
        {"reward_constant", "zero_variance", "nothing_to_learn", "reward_falls"},
        "cispo",
        [f"reward.name={own('falls_back', PLANTS)}", *GENTLE],
        plant=half_taught,
    ),
    Fault(
        "distance_for_score",
        "the reward is the distance to the answer",
        {"verifier_rejects_references", "learns_backwards"},
        "dr_grpo",
        [f"reward.name={own('distance', PLANTS)}", *GENTLE, "train.steps=30"],
        plant=half_taught,
    ),
    Fault(
        "sandbox_overloaded",
        "from step 5 on the sandbox is too slow for a step's completions",
        {"verifier_timeouts", "slow_step"},
        "dapo",
        [f"reward.name={own('sandbox_overloaded', PLANTS)}", "reward.timeout_seconds=0.7", "train.steps=10"],
    ),
    Fault(
        "politeness_without_a_leash",
        "politeness is worth twice the truth, and the KL to the reference costs next to nothing",
        {"part_hacking", "constant_answer", "kl_high"},
        "sgrpo",
        [
            f"reward.name={own('truth_and_politeness', PLANTS)}",
            *GENTLE,
            "algorithm.kl_coef=1e-4",
            "train.lr=2e-3",
            "train.steps=28",
        ],
        plant=half_taught,
    ),
]
