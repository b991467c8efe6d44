"""Rows that are not what they should be."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from benchmarks.faults.define import Fault
from benchmarks.faults.fourth_plants import GENTLE, half_taught, set_in
from benchmarks.faults.plants import made_rows
from oxrl_core.datasets.tiny import reverse3, reverse3_labeled, reverse3_pairs

Rows = list[dict[str, Any]]
ALTERNATING = (
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{{ message['content'] }}{% endfor %}"
)


def _order(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def mask_inverted(_run: Path) -> None:
    """The mask is True where text is not to be learned."""
    from oxrl_core.data import render
    from oxrl_core.types import Example

    right = render._example

    def inverted(prompt: list[int], completion: list[int], media: Any = ()) -> Example:
        example = right(prompt, completion, media)
        return Example(example.token_ids, [not kept for kept in example.completion_mask], example.media)

    render._example = inverted


def mask_of_the_end(_run: Path) -> None:
    """The marker of the answer is looked for from behind and found at the end: EOS alone is learned."""
    from oxrl_core.data import render
    from oxrl_core.types import Example

    right = render._example

    def ending(prompt: list[int], completion: list[int], media: Any = ()) -> Example:
        example = right(prompt, completion, media)
        size = len(example.token_ids)
        return Example(example.token_ids, [place == size - 1 for place in range(size)], example.media)

    render._example = ending


def with_bos(_run: Path) -> None:
    """The model's tokenizer has a BOS."""
    from oxrl_core.models import miniature

    make = miniature._character_tokenizer

    def made() -> Any:
        tokenizer = make()
        tokenizer.bos_token = "<pad>"
        return tokenizer

    miniature._character_tokenizer = made


def with_template(_run: Path) -> None:
    """The model has a chat template that wants roles to alternate."""
    from oxrl_core.models import miniature

    make = miniature._character_tokenizer

    def made() -> Any:
        tokenizer = make()
        tokenizer.chat_template = ALTERNATING
        return tokenizer

    miniature._character_tokenizer = made


def added_tokens(run: Path) -> None:
    """Two tokens were added to the tokenizer, and the embeddings were not resized."""
    from oxrl_core.models.load import load_tokenizer
    from oxrl_core.models.miniature import make_miniature

    folder = make_miniature("chars", run / "extended", 0)
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.save_pretrained(folder)
    set_in(run, "model.path", str(folder))


def _upsampled() -> Rows:
    """Every pair three times, in a random order."""
    rows = [{**row, "copy": copy} for row in reverse3_pairs("train", 0) for copy in range(3)]
    return sorted(rows, key=lambda row: _order(f"{row['prompt']} {row['copy']}"))


def _upsampled_train() -> str:
    return made_rows("upsampled-train", _upsampled()[108:])


def _upsampled_eval() -> str:
    return made_rows("upsampled-eval", _upsampled()[:108])


def _shuffled() -> str:
    """A sort of one column alone."""
    rows = reverse3("train", 0)
    answers = sorted((row["answer"] for row in rows), key=lambda answer: _order(f"{answer} shuffled"))
    return made_rows(
        "shuffled", [{"prompt": row["prompt"], "answer": answer} for row, answer in zip(rows, answers, strict=True)]
    )


def _without_prompts() -> str:
    """A join that found no prompt for two rows of three."""
    return made_rows(
        "without-prompts",
        [
            {"prompt": row["prompt"] if number % 3 == 0 else None, "answer": row["answer"]}
            for number, row in enumerate(reverse3("train", 0))
        ],
    )


def _rendered_twice() -> str:
    """Rows were exported with BOS in their text, by a script that was run on its own output."""
    return made_rows(
        "rendered-twice", [{**row, "prompt": f"<pad><pad>{row['prompt']}"} for row in reverse3_labeled("train", 0)]
    )


def _two_user_turns() -> str:
    return made_rows(
        "two-user-turns",
        [
            {
                "prompt": [
                    {"role": "user", "content": row["prompt"][:2]},
                    {"role": "user", "content": row["prompt"][2:]},
                ],
                "completion": row["answer"],
            }
            for row in reverse3("train", 0)
        ],
    )


def _with_thinking() -> str:
    return made_rows(
        "with-thinking",
        [
            {"prompt": row["prompt"], "completion": f"<think>{row['prompt'][:3]}</think>{row['answer']}"}
            for row in reverse3("train", 0)
        ],
    )


FAULTS = [
    Fault(
        "mask_inverted", "the prompts are learned and not the answers", {"mask_coverage"}, "sft", plant=mask_inverted
    ),
    Fault("mask_of_the_end", "of every answer EOS alone is learned", {"mask_coverage"}, "dft", plant=mask_of_the_end),
    Fault(
        "upsampled_before_the_split",
        "rows were tripled, shuffled and then split",
        {"train_eval_leak", "duplicate_prompts"},
        "dpo",
        [f"data.train.0.name={_upsampled_train()}", f"data.eval.0.name={_upsampled_eval()}", "data.eval.0.split=train"],
    ),
    Fault(
        "answers_sorted_alone",
        "the column of the answers was sorted, and the prompts were not",
        {"contradictory_rows", "reward_flat", "eval_falls"},
        "ppo",
        [f"data.train.0.name={_shuffled()}", *GENTLE, "train.prompts_per_step=8", "train.steps=30"],
        plant=half_taught,
    ),
    Fault(
        "rows_without_prompts",
        "two rows of three have no prompt",
        {"rows_lost"},
        "rloo",
        [f"data.train.0.name={_without_prompts()}"],
    ),
    Fault(
        "rows_rendered_twice",
        "the text of every prompt begins with two BOS",
        {"double_bos"},
        "kto",
        [f"data.train.0.name={_rendered_twice()}"],
        plant=with_bos,
    ),
    Fault(
        "two_user_turns",
        "two turns of the user follow each other, and the template refuses them",
        {"roles_alternate", "wrong_request", "rows_lost"},
        "sft",
        [f"data.train.0.name={_two_user_turns()}", "data.apply_chat_template=true", "data.eval=[]"],
        plant=with_template,
    ),
    Fault(
        "embeddings_not_resized",
        "the tokenizer has two tokens more than the embeddings",
        {"index_range", "wrong_request"},
        "sft",
        [f"data.train.0.name={_with_thinking()}"],
        plant=added_tokens,
    ),
]
