"""Data that teaches the wrong thing, or too little."""

from __future__ import annotations

from pathlib import Path

from benchmarks.faults.define import Fault
from benchmarks.faults.plants import made_rows
from oxrl_core.datasets.tiny import reverse3


def _doubled() -> str:
    return made_rows("doubled", [{"prompt": r["prompt"], "answer": r["answer"]} for r in reverse3("train", 0)[:8]] * 30)


def _contradicting() -> str:
    rows = reverse3("train", 0)
    pairs = [(rows[i % 40]["prompt"], rows[(i * 7) % len(rows)]["answer"]) for i in range(160)]
    return made_rows("contradicting", [{"prompt": prompt, "answer": answer} for prompt, answer in pairs])


def whole_mask(_run: Path) -> None:
    """The mask covers the prompts too."""
    from oxrl_core.data import render
    from oxrl_core.types import Example

    render._example = lambda prompt_ids, completion_ids, media=(): Example(  # type: ignore[assignment]
        prompt_ids + completion_ids, [True] * (len(prompt_ids) + len(completion_ids)), media
    )


def never_ends(_run: Path) -> None:
    """The sampler waits for an EOS that the model does not have."""
    from oxrl_core.rollout import hf_worker

    hf_worker.eos_token_ids = lambda folder: [10_000]  # type: ignore[assignment]


FAULTS = [
    Fault(
        "completions_cut",
        "completions have room for two of four tokens",
        {"truncation"},
        overrides=["rollout.stop_at_eos=true", "rollout.max_completion_tokens=2"],
    ),
    Fault(
        "no_eos",
        "the sampler waits for an EOS that never comes",
        {"no_eos", "truncation"},
        overrides=["rollout.stop_at_eos=true", "rollout.max_completion_tokens=32", "train.steps=15"],
        plant=never_ends,
    ),
    Fault("mask_covers_all", "the loss mask covers the prompts", {"mask_coverage"}, "sft", [], plant=whole_mask),
    Fault(
        "eval_in_train",
        "the held-out rows are training rows",
        {"train_eval_leak"},
        overrides=["data.eval.0.split=train"],
    ),
    Fault(
        "eval_in_train_sft",
        "the held-out rows are training rows",
        {"train_eval_leak"},
        "sft",
        ["data.eval.0.split=train"],
    ),
    Fault(
        "rows_doubled",
        "eight rows stand in the data thirty times",
        {"duplicate_prompts"},
        overrides=[f"data.train.0.name={_doubled()}"],
    ),
    Fault(
        "answers_contradict",
        "the same prompt has several answers",
        {"contradictory_rows"},
        overrides=[f"data.train.0.name={_contradicting()}"],
    ),
    Fault(
        "rows_too_long",
        "data.max_length drops most of the rows",
        {"rows_lost", "wrong_request"},
        "cpt",
        [
            "data.overlong=drop",
            "data.train.0.name=reverse3",
            "algorithm.name=sft",
            "data.packing=false",
            "data.max_length=7",
        ],
    ),
]
