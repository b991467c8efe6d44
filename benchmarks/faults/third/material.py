"""Rows that are not what they should be."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from benchmarks.faults.define import Fault
from benchmarks.faults.plants import made_file, made_rows
from oxrl_core.datasets.tiny import copy3, reverse3, reverse3_labeled, reverse3_pairs, reverse3_ranked

Rows = list[dict[str, object]]


def _coin(row: dict[str, Any]) -> int:
    """A number from 0 to 255 that is always the same for a row."""
    return hashlib.sha256(json.dumps(row).encode()).digest()[0]


def _question_mark_for_arrow() -> str:
    rows: Rows = [
        {"prompt": row["prompt"].replace(">", " ?"), "answer": row["answer"], "completion": row["answer"]}
        for row in reverse3("eval", 0)
    ]
    return made_rows("other-format", rows)


def _one_empty() -> str:
    rows = reverse3("train", 0)
    return made_rows(
        "one-empty",
        [
            {"prompt": row["prompt"], "completion": "" if number == len(rows) - 20 else row["answer"]}
            for number, row in enumerate(rows)
        ],
    )


def _coin_tossed() -> str:
    rows = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in reverse3_ranked("train", 0)]
    return made_rows(
        "coin-tossed",
        [
            row if _coin(row) < 128 else {**row, "chosen": row["rejected"], "rejected": row["chosen"]}  # no margin then
            for row in rows
        ],
    )


def _ten_pairs() -> str:
    return made_rows("ten-pairs", [dict(row) for row in reverse3_pairs("train", 0)[:10]] * 18)


def _half_seen() -> str:
    trained, held_out = reverse3_labeled("train", 0), reverse3_labeled("eval", 0)
    return made_rows("half-seen", [dict(row) for row in (*trained[:30], *held_out[:30])])


def _both_labels() -> str:
    rows = reverse3_labeled("train", 0)
    return made_rows("both-labels", [{**row, "label": label} for row in rows for label in (True, False)])


def _with_examples() -> str:
    rows = reverse3_pairs("train", 0)
    return made_rows(
        "with-examples",
        [row if _coin(row) < 40 else {**row, "prompt": f"123>321 450>054 {row['prompt']}"} for row in rows],
    )


def _in_words() -> str:
    rows = reverse3_labeled("train", 0)
    return made_rows("in-words", [{**row, "label": "good" if row["label"] else "bad"} for row in rows])


def _torn() -> str:
    """Four of ten lines have lost their end, as after a download that was broken off in several parts."""
    lines = [json.dumps(row) for row in reverse3("train", 0)]
    kept = [line[: len(line) // 2] if number % 5 < 2 else line for number, line in enumerate(lines)]
    return made_file("torn-lines", "\n".join(kept) + "\n")


def _with_garbage() -> str:
    """One shard of thirty-two rows is what a crawler found."""
    rows: Rows = [{"prompt": row["prompt"], "completion": row["answer"]} for row in copy3("train", 0)]
    garbage: Rows = [{"prompt": f"{number:03d}>", "completion": "-=:+ ?+=-:"} for number in range(32)]
    return made_rows("with-garbage", rows[:768] + garbage + rows[768:])


def _truncated_by_export() -> str:
    """A column of ten characters: conversations were exported from a table that cut them."""
    rows = reverse3_pairs("train", 0)
    cut = [{**row, "chosen": row["chosen"][:1], "rejected": row["chosen"][:1]} for row in rows[:150]]
    return made_rows("cut-by-export", [*cut, *(dict(row) for row in rows[150:])])


def two_bos(_run: Path) -> None:
    """The tokenizer puts BOS before a prompt that the template has begun with BOS."""
    from oxrl_core.data import render
    from oxrl_core.models import miniature

    make = miniature._character_tokenizer

    def with_bos() -> Any:
        tokenizer = make()
        tokenizer.bos_token = "<pad>"
        return tokenizer

    plain = render._plain_tokens

    def doubled(text: str, tokenizer: Any) -> list[int]:
        return [tokenizer.bos_token_id, tokenizer.bos_token_id, *plain(text, tokenizer)]

    miniature._character_tokenizer = with_bos
    render._plain_tokens = doubled


def eos_is_padding(_run: Path) -> None:
    """EOS is also the padding token, and padding is masked: nothing teaches the model to end."""
    from oxrl_core.data import render
    from oxrl_core.types import Example

    right = render._example

    def masked(prompt: list[int], completion: list[int], media: Any = ()) -> Example:
        example = right(prompt, completion, media)
        mask = [kept and token != 1 for kept, token in zip(example.completion_mask, example.token_ids, strict=True)]
        return Example(example.token_ids, mask, example.media)

    render._example = masked


FAULTS = [
    Fault(
        "eval_in_another_format",
        "held-out prompts are written otherwise than those of the training",
        {"overfitting", "eval_falls"},
        "sft",
        [f"data.eval.0.name={_question_mark_for_arrow()}", "data.eval.0.split=train", "train.steps=60"],
    ),
    Fault(
        "one_completion_empty",
        "one completion is empty, and met in the middle of an epoch",
        {"wrong_request"},
        "sft",
        [f"data.train.0.name={_one_empty()}", "data.shuffle=false"],
    ),
    Fault(
        "preferences_by_coin",
        "half of the preferences are the wrong way round",
        {"loss_flat", "overfitting", "contradictory_rows"},
        "rm",
        [f"data.train.0.name={_coin_tossed()}", "train.steps=60"],
    ),
    Fault(
        "ten_pairs_repeated",
        "ten pairs stand in the data eighteen times",
        {"duplicate_prompts", "overfitting"},
        "dpo",
        [f"data.train.0.name={_ten_pairs()}"],
    ),
    Fault(
        "kto_eval_half_seen",
        "half of the held-out rows are training rows",
        {"train_eval_leak"},
        "kto",
        [f"data.eval.0.name={_half_seen()}", "data.eval.0.split=train"],
    ),
    Fault(
        "kto_both_labels",
        "every completion stands in the data as good and as bad",
        {"contradictory_rows", "loss_flat"},
        "kto",
        [f"data.train.0.name={_both_labels()}"],
    ),
    Fault(
        "pairs_with_examples",
        "examples in the prompt make five of six pairs longer than data.max_length",
        {"rows_lost"},
        "dpo",
        [f"data.train.0.name={_with_examples()}"],
    ),
    Fault(
        "pairs_cut_by_export",
        "an export cut the texts, and five of six pairs have the same one twice",
        {"rows_lost"},
        "simpo",
        [f"data.train.0.name={_truncated_by_export()}"],
    ),
    Fault(
        "prompts_cut_left",
        "the beginning of every prompt is cut off",
        {"rows_lost"},
        overrides=["data.max_prompt_tokens=2", "data.overlong=left"],
    ),
    Fault(
        "prompt_for_completion",
        "completion_column names the prompt",
        {"answer_is_prompt"},
        "sft",
        ["data.train.0.completion_column=prompt"],
    ),
    Fault(
        "column_not_there",
        "completion_column names no column",
        {"wrong_request", "rows_lost"},
        "orpo",
        ["data.train.0.chosen_column=preferred"],
    ),
    Fault(
        "labels_in_words",
        "labels are words that say nothing to the reader of the rows",
        {"wrong_request", "rows_lost"},
        "kto",
        [f"data.train.0.name={_in_words()}"],
    ),
    Fault(
        "torn_lines",
        "four of ten lines of the file are torn",
        {"rows_lost"},
        "sft",
        [f"data.train.0.name={_torn()}"],
    ),
    Fault("two_bos", "template and tokenizer both put BOS before a prompt", {"double_bos"}, plant=two_bos),
    Fault(
        "eos_is_padding",
        "EOS is the padding token, and masked like padding",
        {"no_eos"},
        "sft",
        [],
        plant=eos_is_padding,
    ),
    Fault(
        "shard_of_garbage",
        "one shard of the data is garbage, met once an epoch",
        {"gradient_spike"},
        "sft",
        [
            f"data.train.0.name={_with_garbage()}",
            "data.eval.0.name=copy3",
            "data.shuffle=false",
            "train.steps=56",
        ],
    ),
]
