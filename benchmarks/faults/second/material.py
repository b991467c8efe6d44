"""Rows that are not what they should be."""

from __future__ import annotations

from pathlib import Path

from benchmarks.faults.define import Fault
from benchmarks.faults.plants import made_rows
from oxrl_core.datasets.tiny import reverse3, reverse3_labeled, reverse3_pairs


def _with_flipped_labels() -> str:
    rows = reverse3_labeled("train", 0)
    return made_rows("flipped-labels", [row | {"label": not row["label"]} for row in rows])


def _both_orders() -> str:
    rows = reverse3_pairs("train", 0)
    swapped = [{"prompt": r["prompt"], "chosen": r["rejected"], "rejected": r["chosen"]} for r in rows]
    return made_rows("both-orders", [row for pair in zip(rows, swapped, strict=True) for row in pair])


def _off_by_one() -> str:
    rows = reverse3("train", 0)
    answers = [row["answer"] for row in rows]
    shifted = [*answers[1:], answers[0]]
    return made_rows(
        "off-by-one", [{"prompt": row["prompt"], "answer": a} for row, a in zip(rows, shifted, strict=True)]
    )


def _mostly_long() -> str:
    rows = reverse3("train", 0)
    return made_rows(
        "mostly-long",
        [
            {"prompt": row["prompt"] if number % 10 == 0 else "0123456789 " + row["prompt"], "answer": row["answer"]}
            for number, row in enumerate(rows)
        ],
    )


def _leaky_eval() -> str:
    held_out, trained = reverse3("eval", 0), reverse3("train", 0)
    return made_rows(
        "leaky-eval", [{"prompt": r["prompt"], "answer": r["answer"]} for r in (*held_out[:24], *trained[:12])]
    )


def _oversampled() -> str:
    rows = [{"prompt": r["prompt"], "answer": r["answer"]} for r in reverse3("train", 0)]
    return made_rows("oversampled", [*rows[:30], *(rows[30:36] * 40)])


def _one_side() -> str:
    return made_rows(
        "one-side",
        [
            {"prompt": row["prompt"], "chosen": row["chosen"], "rejected": row["chosen"]}
            for row in reverse3_pairs("train", 0)
        ],
    )


def without_eos(_run: Path) -> None:
    """Rows lose their EOS, as with a template that does not write it."""
    from oxrl_core.data import render

    right = render._example
    render._example = lambda prompt, completion, media=(): right(prompt, completion[:-1], media)  # type: ignore[assignment]


def mask_one_left(_run: Path) -> None:
    """The mask stands one place too far to the left."""
    from oxrl_core.data import render
    from oxrl_core.types import Example

    right = render._example

    def shifted(prompt: list[int], completion: list[int], media: tuple[object, ...] = ()) -> Example:
        example = right(prompt, completion, media)  # type: ignore[arg-type]
        return Example(example.token_ids, [*example.completion_mask[1:], False], example.media)

    render._example = shifted  # type: ignore[assignment]


def mask_of_nothing(_run: Path) -> None:
    """The marker of the answer is not found, and nothing is trained on."""
    from oxrl_core.data import render
    from oxrl_core.types import Example

    right = render._example

    def empty(prompt: list[int], completion: list[int], media: tuple[object, ...] = ()) -> Example:
        example = right(prompt, completion, media)  # type: ignore[arg-type]
        return Example(example.token_ids, [False] * len(example.token_ids), example.media)

    render._example = empty  # type: ignore[assignment]


FAULTS = [
    Fault(
        "kto_labels_inverted",
        "the label says whether a completion is bad",
        {"learns_backwards"},
        "kto",
        [f"data.train.0.name={_with_flipped_labels()}"],
    ),
    Fault(
        "annotators_disagree",
        "every pair stands there in both orders",
        {"contradictory_rows", "loss_flat"},
        "dpo",
        [f"data.train.0.name={_both_orders()}"],
    ),
    Fault(
        "answers_of_the_next_row",
        "a join was off by one: every answer is that of the next row",
        {"overfitting", "loss_flat"},
        "sft",
        [f"data.train.0.name={_off_by_one()}", "train.steps=120", "train.eval_every=20"],
    ),
    Fault(
        "chosen_is_rejected",
        "both columns of the pairs hold the same text",
        {"gradient_dead", "loss_flat", "wrong_request"},
        "dpo",
        [f"data.train.0.name={_one_side()}"],
    ),
    Fault(
        "twelve_rows_by_heart",
        "data.train has a limit of twelve rows that somebody forgot",
        {"overfitting"},
        "sft",
        ["data.train.0.limit=12", "train.steps=120", "train.rows_per_step=12"],
    ),
    Fault(
        "prompts_too_long",
        "nine of ten prompts are longer than data.max_prompt_tokens",
        {"rows_lost"},
        overrides=[f"data.train.0.name={_mostly_long()}"],
    ),
    Fault(
        "eval_a_third_leaked",
        "a third of the held-out rows stand in the training data",
        {"train_eval_leak"},
        overrides=[f"data.eval.0.name={_leaky_eval()}", "data.eval.0.split=train"],
    ),
    Fault(
        "six_rows_oversampled",
        "six rows stand in the data forty times each",
        {"duplicate_prompts"},
        "sft",
        [f"data.train.0.name={_oversampled()}"],
    ),
    Fault("rows_without_eos", "training rows do not end with EOS", {"no_eos"}, "sft", [], plant=without_eos),
    Fault(
        "mask_one_left",
        "the loss mask is off by one: EOS is never learned",
        {"mask_coverage", "no_eos"},
        "sft",
        [],
        plant=mask_one_left,
    ),
    Fault(
        "mask_of_nothing",
        "the loss mask covers no token",
        {"mask_coverage"},
        "sft",
        [],
        plant=mask_of_nothing,
    ),
]
