"""Rows, files and templates that are not what they should be."""

from __future__ import annotations

import json

from benchmarks.faults.define import Fault
from benchmarks.faults.plants import made_file, made_rows
from oxrl_core.datasets.tiny import digits_text, reverse3, reverse3_ranked


def _indented() -> str:
    """What `json.dump(rows, file, indent=2)` writes, under a name that ends with .jsonl."""
    rows = [{"prompt": row["prompt"], "answer": row["answer"]} for row in reverse3("train", 0)]
    return made_file("eighth-indented", json.dumps(rows, indent=2))


def _numbers_for_prompts() -> str:
    """Four of five prompts went through a table, and came back as numbers."""
    rows = reverse3("train", 0)
    return made_rows(
        "eighth-numbers",
        [
            {"prompt": row["prompt"] if index % 5 == 0 else int(row["prompt"][:-1]), "answer": row["answer"]}
            for index, row in enumerate(rows)
        ],
    )


def _crawl_with_the_benchmark() -> str:
    """Two of three held-out texts stand in the crawl that is trained on."""
    held_out, trained = digits_text("eval", 0), digits_text("train", 0)
    return made_rows("eighth-crawl", [{"text": row["text"]} for row in (*trained, *held_out[: len(held_out) * 2 // 3])])


def _ranks_for_scores() -> str:
    """Pairs of a table in which 1 is the best place, built as if a larger number were better."""
    return made_rows(
        "eighth-ranks",
        [
            {"prompt": row["prompt"], "chosen": row["rejected"], "rejected": row["chosen"], "margin": row["margin"]}
            for row in reverse3_ranked("train", 0)
        ],
    )


def _of_two_rules() -> str:
    """Every second row was made by another vendor, who answers with the digits as they stand."""
    return made_rows(
        "eighth-two-rules",
        [
            {"prompt": row["prompt"], "completion": row["answer"] if index % 2 else row["prompt"][:-1]}
            for index, row in enumerate(reverse3("train", 0))
        ],
    )


def _few_documents() -> str:
    """A crawl of 240 pages that are mirrors of four."""
    return made_rows("eighth-mirrors", [{"text": row["text"]} for row in digits_text("train", 0)[5:180:45]] * 60)


FAULTS = [
    # pain 14: the names of the splits were exchanged
    Fault(
        "splits_exchanged",
        "the thirty-six held-out rows are trained on, and the others are held out",
        {"overfitting"},
        "sft",
        ["data.train.0.split=eval", "data.eval.0.split=train", "train.steps=120", "train.eval_every=20"],
    ),
    # LLaMA-Factory, axolotl: a list in one indented document is no file of lines
    Fault(
        "indented_document",
        "a file of lines holds one indented document",
        {"rows_lost", "wrong_request"},
        "sgrpo",
        [f"data.train.0.name={_indented()}"],
    ),
    # LLaMA-Factory: numbers in a column of texts
    Fault(
        "numbers_for_prompts",
        "four of five prompts are numbers and no texts",
        {"rows_lost", "ds_cast"},
        "rloo",
        [f"data.train.0.name={_numbers_for_prompts()}"],
    ),
    # pain: contamination; a crawl has the benchmark in it
    Fault(
        "benchmark_in_the_crawl",
        "two of three held-out texts stand in the texts that are trained on",
        {"train_eval_leak"},
        "cpt",
        [f"data.train.0.name={_crawl_with_the_benchmark()}"],
    ),
    # OpenRLHF, ms-swift: rank 1 is the best place
    Fault(
        "ranks_for_scores",
        "the place in a ranking was taken for a score, and the worse draft is preferred",
        {"learns_backwards"},
        "rm",
        [f"data.train.0.name={_ranks_for_scores()}"],
    ),
    # pain: two vendors, two readings of one instruction
    Fault(
        "rows_of_two_rules",
        "every second row follows another rule",
        {"contradictory_rows", "overfitting"},
        "sft",
        [f"data.train.0.name={_of_two_rules()}", "train.steps=100"],
    ),
    # the same page under many addresses
    Fault(
        "mirrors_not_removed",
        "240 texts are four texts sixty times",
        {"duplicate_prompts", "overfitting"},
        "cpt",
        [f"data.train.0.name={_few_documents()}", "train.steps=80"],
    ),
]
