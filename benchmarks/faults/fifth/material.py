"""Rows that are not what they should be."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from benchmarks.faults.define import HERE, Fault, own
from benchmarks.faults.fourth_plants import half_taught
from benchmarks.faults.plants import made_rows
from oxrl_core.datasets.tiny import reverse3, reverse3_pairs

PLANTS = HERE / "fifth_plants.py"
Rows = list[dict[str, Any]]


def _plain(split: str) -> Rows:
    return [{"prompt": row["prompt"], "answer": row["answer"]} for row in reverse3(split, 0)]


def _of_two_teams() -> str:
    """Two teams have answered the same prompts: one was told to reverse the digits, the other to copy them."""
    rows = _plain("train")
    return made_rows("of-two-teams", [*rows, *({**row, "answer": row["prompt"].rstrip(">")} for row in rows)])


def _without_rejected() -> str:
    """Every second row has no rejected completion: nobody has annotated them."""
    rows = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in reverse3_pairs("train", 0)]
    return made_rows(
        "without-rejected", [row if number % 2 == 0 else {**row, "rejected": ""} for number, row in enumerate(rows)]
    )


def _six_rows() -> str:
    return made_rows("six-rows", _plain("train")[:6])


def _mostly_sums() -> str:
    """Three of four prompts are sums of three digits, which the model has never seen."""
    rows = _plain("train")
    hard: Rows = []
    for number, row in enumerate(rows):
        digest = hashlib.sha256(row["prompt"].encode()).digest()
        first, second = 500 + digest[0], 500 + digest[1]
        is_kept = number % 4 == 0
        hard.append(row if is_kept else {"prompt": f"{first}+{second}=", "answer": str(first + second)})
    return made_rows("mostly-sums", hard)


def ends_are_stripped(_run: Path) -> None:
    """A cleaner of special tokens runs after rendering: no completion keeps its end."""
    from oxrl_core.data import render

    render._with_end = lambda token_ids, end, eos: token_ids


def mask_of_all(_run: Path) -> None:
    """The collator takes the attention mask for the loss mask: prompts count as much as completions."""
    from oxrl_core.data import render
    from oxrl_core.types import Example

    def whole(prompt: list[int], completion: list[int], media: Any = ()) -> Example:
        return Example(prompt + completion, [True] * (len(prompt) + len(completion)), media)

    render._example = whole


FAULTS = [
    Fault(
        "two_teams",
        "the same prompts have the answers of two tasks",
        {"contradictory_rows", "duplicate_prompts"},
        "sft",
        [f"data.train.0.name={_of_two_teams()}"],
    ),
    Fault(
        "not_annotated",
        "every second pair has no rejected completion",
        {"rows_lost"},
        "orpo",
        [f"data.train.0.name={_without_rejected()}", "train.steps=24"],
    ),
    Fault(
        "ends_are_stripped",
        "no completion of a pair keeps its end",
        {"no_eos"},
        "orpo",
        plant=ends_are_stripped,
    ),
    Fault(
        "prompts_in_the_mean",
        "the mask of pairs covers their prompts",
        {"mask_coverage"},
        "simpo",
        plant=mask_of_all,
    ),
    Fault(
        "ratio_in_percent",
        "the ratios are 5 and 95, and the one with 95 has six rows",
        {"duplicate_prompts", "overfitting"},
        "sft",
        [f"data.train=[{{name: reverse3, ratio: 5}}, {{name: '{_six_rows()}', ratio: 95}}]", "train.steps=60"],
    ),
    Fault(
        "mostly_sums",
        "three of four prompts are far too hard",
        {"too_hard", "zero_variance"},
        "sgrpo",
        [
            f"data.train.0.name={_mostly_sums()}",
            f"reward.name={own('whole_answer', PLANTS)}",
            "train.lr=3e-5",
            "algorithm.advantage_scale=1",
            "algorithm.entropy_coef=0",
        ],
        plant=half_taught,
    ),
]
