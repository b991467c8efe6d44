"""Verifiers that can be had cheaply, that fail in silence, or that say another thing each time."""

from __future__ import annotations

from benchmarks.faults.define import HERE, Fault, own
from benchmarks.faults.plants import made_rows
from oxrl_core.datasets.tiny import reverse3

PLANTS = HERE / "sixth_plants.py"


def _of_two_sources() -> str:
    return made_rows(
        "sixth-of-two-sources",
        [
            {"prompt": row["prompt"], "answer": row["answer"], "data_source": "math_dapo" if number % 2 else "reverse"}
            for number, row in enumerate(reverse3("train", 0))
        ],
    )


def _three_choices(split: str) -> str:
    """The last digit of the prompt decides among the choices 0, 1 and 2."""
    rows = reverse3(split, 0)
    return made_rows(
        f"sixth-three-choices-{split}",
        [{"prompt": row["prompt"], "answer": str(int(row["answer"][0]) % 3)} for row in rows],
    )


FAULTS = [
    Fault(  # Visual-RFT#79: "<answer>A or B or C</answer>" is always right
        "all_choices_named",
        "the verifier finds the right choice wherever it stands, and all choices are named",
        {"constant_answer", "reward_full"},
        overrides=[
            f"reward.name={own('any_place_counts', PLANTS)}",
            f"data.train.0.name={_three_choices('train')}",
            f"data.eval=[{{name: {_three_choices('eval')}, split: train}}]",
            "algorithm.entropy_coef=0",
            "train.prompts_per_step=16",
            "train.steps=60",
        ],
    ),
    Fault(  # Visual-RFT#176: `ground_truth in answer or answer in ground_truth`
        "nothing_is_contained",
        "the verifier accepts what the answer contains, and it contains the empty text",
        {"constant_answer", "reward_full"},
        "dr_grpo",
        [
            f"reward.name={own('one_contains_the_other', PLANTS)}",
            "rollout.stop_at_eos=true",
            "rollout.max_completion_tokens=6",
            "train.steps=40",
        ],
    ),
    Fault(  # pain 13, verl#5635, trl#5281, Math-Verify#55
        "alarm_in_a_thread",
        "the verifier's time limit needs the main thread, and what it raises elsewhere counts as 0",
        {"reward_zero", "verifier_errors"},
        "gspo",
        [f"reward.name={own('under_an_alarm_in_a_thread', PLANTS)}"],
    ),
    Fault(  # openagent-eval#74: the parser takes a number of the judge's text that is not the score
        "numbers_of_the_answer",
        "the parser of the judge's text takes the digits of the quoted answer for scores",
        {"constant_answer"},
        "rloo",
        [f"reward.name={own('mean_of_all_numbers', PLANTS)}", "train.prompts_per_step=16", "train.steps=60"],
    ),
    Fault(  # a bonus for novelty: the same completion is worth less each time
        "novelty_wears_off",
        "a bonus for what was not seen before outweighs the truth, and runs dry",
        {"reward_inconsistent", "reward_falls"},
        "sapo",
        [f"reward.name={own('new_kinds_are_paid', PLANTS)}", "train.steps=40"],
    ),
    Fault(  # verl#3450, #5558, AReaL#105
        "unknown_data_source",
        "the verifier knows one of the two sources of the rows",
        {"verifier_errors"},
        "dapo",
        [f"data.train.0.name={_of_two_sources()}", f"reward.name={own('by_data_source', PLANTS)}"],
    ),
    Fault(  # pain 16, raw against shaped: the shaped reward is faded out
        "faded_out",
        "the reward is faded out over twelve steps, and no other one takes its place",
        {"reward_falls", "reward_zero", "zero_variance"},
        "cispo",
        [f"reward.name={own('annealed_away', PLANTS)}", "train.steps=36"],
    ),
    Fault(  # pain 15: a model of the reward on a GPU that its process does not have
        "verifier_wants_a_gpu",
        "the verifier puts tensors onto a GPU, and there is none",
        {"no_cuda", "verifier_errors"},
        overrides=[f"reward.name={own('scored_on_the_gpu', PLANTS)}"],
    ),
]
