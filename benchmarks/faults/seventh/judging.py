"""Rewards that fail in their own way, or pay for what was not meant."""

from __future__ import annotations

from pathlib import Path

from benchmarks.faults.define import HERE, Fault, own

PLANTS = HERE / "seventh_plants.py"


def penalty_is_added(_run: Path) -> None:
    """The penalty of long completions has the wrong sign."""
    from oxrl_core.rewards import shaping

    right = shaping.overlong_penalty
    shaping.overlong_penalty = lambda *arguments: -right(*arguments)


FAULTS = [
    Fault(  # trl#3079, trl#5775: reward functions that return None
        "none_where_unparsed",
        "the verifier returns None where it finds no number",
        {"verifier_errors"},
        "sgrpo",
        [f"reward.name={own('none_where_unparsed', PLANTS)}"],
    ),
    Fault(  # trl#6533: fewer rewards than completions
        "doubles_without_a_verdict",
        "the reward gives one verdict for completions that are the same, and so too few of them",
        {"verifier_errors"},
        "sgrpo",
        [f"reward.name={own('scores_of_distinct_texts', PLANTS)}", "train.steps=60", "rollout.group_size=24"],
    ),
    Fault(  # pain 13: an error is no verdict
        "errors_count_as_right",
        "whatever the verifier cannot compare is right",
        {"reward_full", "too_easy"},
        "dr_grpo",
        [f"reward.name={own('right_unless_refuted', PLANTS)}", "train.steps=40"],
    ),
    Fault(  # pain 16: abstaining pays more than trying
        "abstaining_pays",
        "a question mark brings more than an honest attempt",
        {"constant_answer"},
        "cispo",
        [f"reward.name={own('pays_for_abstaining', PLANTS)}", "train.prompts_per_step=16", "train.steps=50"],
    ),
    Fault(  # open-r1#407: the count of tags as a reward
        "tags_without_a_cap",
        "tags of the format are counted without a cap, and their bonus outweighs the truth",
        {"part_hacking", "constant_answer"},
        "sgrpo",
        [
            f"reward.name={own('truth_and_tags', PLANTS)}",
            "rollout.max_completion_tokens=8",
            "train.prompts_per_step=16",
            "train.steps=40",
        ],
    ),
    Fault(  # NeMo#4158: raw and shaped reward
        "penalty_is_added",
        "the penalty of long completions is added and not taken off",
        {"shaped_reward", "length_hacking"},
        "sgrpo",
        [
            "reward.overlong_buffer=20",
            "rollout.max_completion_tokens=24",
            "rollout.stop_at_eos=true",
            "train.steps=40",
        ],
        plant=penalty_is_added,
    ),
]
