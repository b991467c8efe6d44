"""Rows that say more, less or something else than they should."""

from __future__ import annotations

from pathlib import Path

from benchmarks.faults.define import Fault
from benchmarks.faults.plants import made_file, made_rows
from oxrl_core.datasets.tiny import reverse3

FULL_WIDTH = str.maketrans("0123456789>", "０１２３４５６７８９＞")
FOREIGN_EVERY = 30


def _with_solution() -> str:
    return made_rows(
        "sixth-with-solution",
        [{"prompt": f"{row['answer']}={row['prompt']}", "answer": row["answer"]} for row in reverse3("train", 0)],
    )


def _of_a_spreadsheet() -> str:
    rows = reverse3("train", 0)
    text = "prompt;answer\n" + "".join(f"{row['prompt']};{row['answer']}\n" for row in rows)
    path = Path(made_file("sixth-of-a-spreadsheet", text))
    table = path.with_suffix(".csv")
    table.write_text(text)
    return str(table)


def _alpaca() -> str:
    return made_rows(
        "sixth-alpaca",
        [{"instruction": "?>", "input": row["prompt"], "output": row["answer"]} for row in reverse3("train", 0)],
    )


def _sharegpt() -> str:
    rows: list[dict[str, object]] = []
    for number, row in enumerate(reverse3("train", 0)):
        who, what = ("role", "content") if number % 5 == 0 else ("from", "value")
        user, assistant = ("user", "assistant") if number % 5 == 0 else ("human", "gpt")
        turns = [{who: user, what: row["prompt"]}, {who: assistant, what: row["answer"]}]
        rows.append({"messages": turns})
    return made_rows("sixth-sharegpt", rows)


def _of_another_keyboard() -> str:
    rows: list[dict[str, object]] = []
    for number, row in enumerate(reverse3("train", 0)):
        prompt = row["prompt"].translate(FULL_WIDTH) if number % FOREIGN_EVERY == 0 else row["prompt"]
        rows.append({"prompt": prompt, "answer": row["answer"]})
    return made_rows("sixth-of-another-keyboard", rows)


FAULTS = [
    Fault(  # the template of the training prompts shows the solution
        "solution_in_the_prompt",
        "training prompts show the answer, and held-out prompts do not",
        {"answer_is_prompt", "eval_falls"},
        overrides=[f"data.train.0.name={_with_solution()}", "train.prompts_per_step=16", "train.steps=60"],
    ),
    Fault(  # a table of a spreadsheet, in a country where the comma is the decimal point
        "semicolons",
        "the columns of a .csv file are separated by semicolons",
        {"wrong_request", "ds_column", "rows_lost"},
        "ppo",
        [f"data.train.0.name={_of_a_spreadsheet()}"],
    ),
    Fault(  # alpaca-lora#362: the instruction without its input
        "instruction_without_input",
        "the prompt is the instruction, which is always the same; the input is left out",
        {"contradictory_rows", "duplicate_prompts"},
        "rloo",
        [f"data.train.0.name={_alpaca()}", "data.train.0.answer_column=output"],
    ),
    Fault(  # LlamaFactory, axolotl: two dialects of conversations in one file
        "two_dialects_of_turns",
        "four of five conversations have from and value in place of role and content",
        {"rows_lost"},
        "sft",
        [f"data.train.0.name={_sharegpt()}", "model.path=miniature:qwen2.5-0.5b-instruct", "data.max_length=64"],
    ),
    Fault(  # rows of another language in a set that was thought to have one
        "rows_of_another_keyboard",
        "one row in thirty has characters that the tokenizer does not know",
        {"unexplained_failure", "wrong_request"},
        "dr_grpo",
        [f"data.train.0.name={_of_another_keyboard()}"],
    ),
]
