"""What is trained on of a row, for people: runs of tokens, and whether a run's masks can be right at all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from oxrl_core.errors import DataError
from oxrl_core.types import Example, LabeledExample, PairExample, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from oxrl_core.data.render import LabeledRow

CHECKED_ITEMS = 64
SHOWN_CHARACTERS = 600


def examples_of(item: Any) -> list[Example]:
    """The rows of tokens that an item becomes: an example, both of a pair, a prompt with its completion."""
    if isinstance(item, Example):
        return [item]
    if isinstance(item, PairExample):
        return [item.chosen, item.rejected]
    if isinstance(item, LabeledExample):
        return [item.example]
    if isinstance(item, Prompt):
        return [_joined(item.token_ids, item.completion_ids)]
    labeled: LabeledRow = item
    return [_joined(labeled.prompt_ids, labeled.completion_ids)]


def spans(example: Example, tokenizer: PreTrainedTokenizerBase) -> list[tuple[bool, str]]:
    """The decoded text in runs, each with whether it is trained on."""
    tokens = zip(example.token_ids, example.completion_mask, strict=True)
    runs = groupby(tokens, key=lambda token: token[1])
    return [(trained, tokenizer.decode([token for token, _ in run])) for trained, run in runs]


def check_masks(items: Iterable[Any], tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises where the masks of all items cover nothing, or everything: then the columns or the template are wrong."""
    examples = [example for item in items for example in examples_of(item)]
    trained = sum(sum(example.completion_mask) for example in examples)
    # The first token of a row is never trained on: nothing stands before it.
    possible = sum(len(example.token_ids) - 1 for example in examples)
    if not examples or 0 < trained < possible:
        return
    share, wrong = ("0 %", "nothing would be learned") if not trained else ("100 %", "no prompt is left")
    text = marked(spans(examples[0], tokenizer))
    raise DataError(
        f"the mask covers {share} of the tokens of the first {len(examples)} rows: {wrong}. The first one, with what "
        f"is trained on in [[ ]]: {text[:SHOWN_CHARACTERS]}",
        where="data.train",
        next_step="check prompt_column and completion_column (oxrl data inspect shows the rows); whole texts: cpt",
    )


def misplaced_mask(rows: Iterable[tuple[list[int], Any]], tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """The first item, marked, whose mask is not exactly what stands behind its prompt, after the code of its alert.

    The code is no_eos where nothing but the last token is missing, else mask_coverage. Both are empty where all are
    right.

    `rows`: the tokens of each prompt, and the item. One that was cut, or that holds media, does not begin with them.
    """
    for prompt_ids, item in rows:
        start = len(prompt_ids)
        for example in examples_of(item):
            right = [False] * start + [True] * (len(example.token_ids) - start)
            if example.token_ids[:start] == prompt_ids and example.completion_mask != right:
                only_its_end = example.completion_mask[:-1] == right[:-1]
                return "no_eos" if only_its_end else "mask_coverage", marked(spans(example, tokenizer))
    return "", ""


def marked(runs: Sequence[tuple[bool, str]]) -> str:
    """The text with what is trained on between [[ and ]]."""
    return "".join(f"[[{text}]]" if trained else text for trained, text in runs)


def _joined(prompt_ids: list[int], completion_ids: list[int]) -> Example:
    return Example([*prompt_ids, *completion_ids], [False] * len(prompt_ids) + [True] * len(completion_ids))
