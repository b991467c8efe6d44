"""What chat templates do to messages, and what differs between the families of models."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from oxrl_core.errors import DataError
from oxrl_core.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OPENED_THINKING = ("<think>", "<thought>")  # what a template may write before the completion begins
PROBE = "2718281828"  # an answer that no template changes


@dataclass
class RenderNotes:
    """What was done to rows besides turning them into tokens: each kind counted, and the first row it was done to."""

    counts: Counter[str] = field(default_factory=Counter[str])
    first: dict[str, str] = field(default_factory=dict[str, str])

    def add(self, kind: str, row_id: str) -> None:
        """Counts one row: `cut`, `empty`, `folded`, `opened`, `refused`, `same_pair`, `too_long`."""
        self.counts[kind] += 1
        self.first.setdefault(kind, row_id)


def chat_text(
    messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, row_id: str, notes: RenderNotes | None = None
) -> str:
    """The messages in the model's chat template, up to where the assistant begins to speak.

    A system message that the template refuses, or leaves out in silence, is folded into the first user message.
    """
    text, refusal = _applied(tokenizer, messages)
    if refusal is None and _system_is_there(messages, text):
        return text
    folded = fold_system(messages)
    if folded is not None:
        text_of_folded, second_refusal = _applied(tokenizer, folded)
        if second_refusal is None:
            if notes is not None:
                notes.add("folded", row_id)
            return text_of_folded
    if refusal is None:
        return text
    roles = ", ".join(message["role"] for message in messages)
    raise DataError(
        f"the model's chat template refuses messages of the roles {roles}: {refusal}",
        where=row_id,
        next_step="remove data.system_prompt where the model knows no system role; mend the row's order of roles",
    ) from refusal


def fold_system(messages: Sequence[Message]) -> list[Message] | None:
    """The messages with the system's words at the head of the first user message; None where there are no such two."""
    if len(messages) < 2 or messages[0]["role"] != "system" or messages[1]["role"] != "user":
        return None
    system, content = messages[0]["content"], messages[1]["content"]
    if isinstance(content, str):
        return [{**messages[1], "content": f"{system}\n\n{content}"}, *messages[2:]]
    parts: Any = [{"type": "text", "text": f"{system}\n\n"}, *content]  # text among images and sounds
    return [{**messages[1], "content": parts}, *messages[2:]]


def without_opened_thinking(prompt_text: str, completion: str) -> str:
    """The completion without the thinking tag that the template has written already, at the end of the prompt."""
    for tag in OPENED_THINKING:
        if prompt_text.rstrip().endswith(tag) and completion.lstrip().startswith(tag):
            rest = completion.lstrip().removeprefix(tag)
            return rest.removeprefix("\n") if prompt_text.endswith("\n") else rest
    return completion


_ends: WeakKeyDictionary[PreTrainedTokenizerBase, int | None] = WeakKeyDictionary()


def end_tokens(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens that a completion can end with: EOS, and what the chat template writes after a turn."""
    return {token for token in (tokenizer.eos_token_id, end_of_turn(tokenizer)) if token is not None}


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token with which the assistant's turn ends.

    It is the one that the chat template writes there, if it is one of those that end a completion when the model
    generates; else EOS. Some families end a turn with another token than a text: "<end_of_turn>" and "<eos>".
    """
    if tokenizer not in _ends:
        _ends[tokenizer] = _find_end_of_turn(tokenizer)
    return _ends[tokenizer]


def _find_end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    eos: int | None = tokenizer.eos_token_id
    turn = [{"role": "user", "content": "0"}, {"role": "assistant", "content": PROBE}]
    text, refusal = _applied(tokenizer, turn, add_generation_prompt=False)
    before, found, tail = text.rpartition(PROBE)
    if refusal is not None or not found or not before:
        return eos
    behind: list[int] = tokenizer(tail, add_special_tokens=False)["input_ids"]
    return behind[0] if behind and behind[0] in _stop_ids(tokenizer) else eos


def _stop_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens that end a completion, as the files beside the tokenizer say."""
    folder = Path(str(tokenizer.name_or_path))
    for name in ("generation_config.json", "config.json"):
        file = folder / name
        found: Any = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id") if file.is_file() else None
        if found is not None:
            return {found} if isinstance(found, int) else set(found)
    return set()


def _applied(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, add_generation_prompt: bool = True
) -> tuple[str, Exception | None]:
    """What the template makes of the messages, or why it refuses them.

    Templates of models that see (SmolVLM's) walk through a message's parts, and make nothing of a plain text, without
    a word: where the last text is not there, it is given as a part.
    """
    text, refusal = _apply(tokenizer, messages, add_generation_prompt)
    last: Any = messages[-1]["content"] if messages else ""
    if refusal is None and isinstance(last, str) and last.strip() not in text:
        parts: list[Any] = [
            {**message, "content": [{"type": "text", "text": message["content"]}]}
            if isinstance(message["content"], str)
            else message
            for message in messages
        ]
        of_parts, second_refusal = _apply(tokenizer, parts, add_generation_prompt)
        if second_refusal is None and last.strip() in of_parts:
            return of_parts, None
    return text, refusal


def _apply(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], add_generation_prompt: bool
) -> tuple[str, Exception | None]:
    try:
        text = tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=add_generation_prompt
        )
    except Exception as error:  # templates are programs: they raise what they like about roles and their order
        return "", error
    return str(text), None


def _system_is_there(messages: Sequence[Message], text: str) -> bool:
    if not messages or messages[0]["role"] != "system":
        return True
    content: Any = messages[0]["content"]
    return not isinstance(content, str) or content.strip() in text
