"""Rewards that are wrong, late, absent, or paid for something else."""

from __future__ import annotations

import hashlib

from benchmarks.faults.define import HERE, Fault, own
from benchmarks.faults.plants import made_rows
from oxrl_core.datasets.tiny import reverse3

PLANTS = HERE / "third_plants.py"


def _numbered() -> str:
    """Rows of multiple choice whose answers are numbers, as in MMLU, where the verifier wants letters."""
    rows = [(row["prompt"], hashlib.sha256(row["prompt"].encode()).digest()[0] % 4) for row in reverse3("train", 0)]
    return made_rows("numbered-choices", [{"prompt": prompt, "answer": str(choice)} for prompt, choice in rows])


FAULTS = [
    Fault(
        "judge_with_noise",
        "the judge's verdicts vary more than what it judges",
        {"reward_inconsistent", "reward_flat"},
        overrides=[f"reward.name={own('with_noise', PLANTS)}"],
    ),
    Fault(
        "judge_picks_the_first",
        "the judge prefers what it reads first, whatever it is",
        {"reward_inconsistent", "reward_flat"},
        "dr_grpo",
        [f"reward.name={own('picks_the_first', PLANTS)}"],
    ),
    Fault(
        "verifier_dies",
        "the verifier's process crashes on some completions",
        {"verifier_errors"},
        overrides=[f"reward.name={own('dies_on_seven', PLANTS)}", "train.steps=5"],
    ),
    Fault(
        "judge_out_of_quota",
        "from step 8 on most calls of the judge are refused",
        {"verifier_errors"},
        "rloo",
        [f"reward.name={own('rate_limited', PLANTS)}"],
    ),
    Fault(
        "keyword_hacked",
        "one word wins the judge",
        {"constant_answer", "part_hacking"},
        "rloo",
        [f"reward.name={own('finds_the_keyword', PLANTS)}", "train.steps=40"],
    ),
    Fault(
        "length_beside_truth",
        "a bonus for each token outweighs the truth",
        {"length_hacking", "part_hacking"},
        "rloo",
        [
            f"reward.name={own('truth_and_length', PLANTS)}",
            "rollout.stop_at_eos=true",
            "rollout.max_completion_tokens=16",
            "train.steps=40",
        ],
    ),
    Fault(
        "verdicts_cached_by_prompt",
        "the verifier's cache forgets the completion",
        {"zero_variance", "nothing_to_learn"},
        overrides=[f"reward.name={own('cached_by_prompt', PLANTS)}"],
    ),
    Fault(
        "verifier_reads_the_prompt",
        "the verifier finds the answer in the prompt",
        {"reward_full", "too_easy", "zero_variance"},
        "rloo",
        [f"reward.name={own('reads_the_prompt', PLANTS)}"],
    ),
    Fault(
        "numbers_for_letters",
        "the rows number the choices, and the verifier wants letters",
        {"verifier_rejects_references"},
        overrides=[f"data.train.0.name={_numbered()}", "reward.name=mcqa"],
    ),
]
