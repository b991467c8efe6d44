"""Rewards that say nothing, the wrong thing, or nothing in time."""

from __future__ import annotations

from benchmarks.faults.define import Fault, own
from benchmarks.faults.plants import made_rows
from oxrl_core.datasets.tiny import reverse3


def _with_id() -> str:
    rows = reverse3("train", 0)
    return made_rows("with-id", [{"prompt": row["prompt"], "key": str(1000 + i)} for i, row in enumerate(rows)])


FAULTS = [
    Fault(
        "wrong_answer_column",
        "answer_column names the rows' keys",
        {"reward_zero"},
        overrides=[f"data.train.0.name={_with_id()}", "data.train.0.answer_column=key", "reward.name=exact"],
    ),
    Fault(
        "answer_is_prompt",
        "answer_column names the prompt",
        {"answer_is_prompt"},
        overrides=["data.train.0.answer_column=prompt"],
    ),
    Fault(
        "reward_always_one",
        "the verifier accepts everything",
        {"reward_full"},
        overrides=[f"reward.name={own('always_one')}"],
    ),
    Fault(
        "reward_always_zero",
        "the extractor finds no answer",
        {"reward_zero"},
        overrides=[f"reward.name={own('always_zero')}"],
    ),
    Fault(
        "reward_same_half",
        "the judge always says 0.5",
        {"reward_constant"},
        overrides=[f"reward.name={own('same_half')}"],
    ),
    Fault(
        "reward_errors_some",
        "the verifier breaks on some completions",
        {"verifier_errors"},
        overrides=[f"reward.name={own('raises_on_some')}"],
    ),
    Fault(
        "reward_errors_all",
        "the verifier breaks on everything",
        {"verifier_errors"},
        overrides=[f"reward.name={own('raises_always')}"],
    ),
    Fault(
        "reward_timeouts",
        "the verifier hangs on some completions",
        {"verifier_timeouts"},
        overrides=[f"reward.name={own('hangs')}", "reward.timeout_seconds=0.5", "train.steps=8"],
    ),
    Fault(
        "reward_dice",
        "the judge throws dice",
        {"reward_inconsistent"},
        overrides=[f"reward.name={own('dice')}", "rollout.max_completion_tokens=1"],
    ),
    Fault(
        "exact_from_nothing",
        "only whole right answers count, and the model knows nothing",
        {"reward_zero", "too_hard"},
        overrides=["reward.name=exact"],
    ),
]
