"""Which column of a source is what, and its rows in one form. Every error names the place of the row and the reason."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from oxrl_core.datasets.media import media_of, without_parts
from oxrl_core.errors import DataError
from oxrl_core.suggest import did_you_mean
from oxrl_core.types import Message, Row

if TYPE_CHECKING:
    from oxrl_core.config.schema import DatasetConfig

PROMPT_COLUMNS = ("prompt", "question", "instruction", "problem", "input", "messages")
COMPLETION_COLUMNS = ("completion", "response", "output", "answer", "solution")
ANSWER_COLUMNS = ("answer", "solution", "label", "target")

DESIRABLE = ("true", "1", "1.0", "desirable")
UNDESIRABLE = ("false", "0", "0.0", "-1", "-1.0", "undesirable")


@dataclass(frozen=True)
class Columns:
    """The name of the column of each role; None where the source has none."""

    prompt: str | None
    completion: str | None
    answer: str | None
    chosen: str | None
    rejected: str | None
    margin: str | None
    label: str | None
    text: str | None
    label_is_named: bool = False  # a column that only happens to be called label may hold anything


def columns_of(source: DatasetConfig, rows: Sequence[Row]) -> Columns:
    """Which column is what: the named ones, or the first of the usual names."""
    there = list(dict.fromkeys(name for row in rows[:100] for name in row))

    def find(role: str, named: str | None, usual: Sequence[str]) -> str | None:
        if named is None:
            return next((name for name in usual if name in there), None)
        if named not in there:
            raise DataError(
                f"there is no column {named!r}.{did_you_mean(named, there)}",
                where=source.name,
                next_step=f"set data.{role}_column to one of: {', '.join(there)}",
            )
        return named

    prompt = find("prompt", source.prompt_column, PROMPT_COLUMNS)
    columns = Columns(
        prompt=prompt,
        completion=find("completion", source.completion_column, [n for n in COMPLETION_COLUMNS if n != prompt]),
        answer=find("answer", source.answer_column, [name for name in ANSWER_COLUMNS if name != prompt]),
        chosen=find("chosen", source.chosen_column, ["chosen"]),
        rejected=find("rejected", source.rejected_column, ["rejected"]),
        margin=find("margin", source.margin_column, ["margin"]),
        label=find("label", source.label_column, ["label"]),
        text=find("text", source.text_column, ["text"]),
        label_is_named=source.label_column is not None,
    )
    if prompt is None and columns.text is None and not (columns.chosen and columns.rejected):
        raise DataError(
            f"no column is a prompt; it has: {', '.join(there)}",
            where=source.name,
            next_step=f"name it in prompt_column, or call it one of: {', '.join(PROMPT_COLUMNS)}",
        )
    return columns


def normalise(row: Row, row_id: str, columns: Columns, place: str) -> Row:
    """The row in the form that every reader of rows knows."""
    _require_whole_characters(row, place)
    normalised: Row = {"id": row_id, "row": row}
    row = without_parts(row, (columns.prompt, columns.chosen, columns.rejected, columns.completion), place)
    normalised |= _pair(row, columns, place) | media_of(row, place)
    text = row.get(columns.text) if columns.text else None
    if isinstance(text, str):
        normalised["text"] = text
    elif text is not None and columns.prompt is None:
        raise DataError(f"the column {columns.text!r} holds {_short(text)}, which is no text", place, "mend the row")
    if "prompt" not in normalised:
        value = row.get(columns.prompt) if columns.prompt else None
        if value is not None:
            normalised["prompt"] = _prompt(value, str(columns.prompt), place)
        elif "text" not in normalised:
            raise DataError(
                f"the column {columns.prompt or columns.text or 'prompt'!r} is missing",
                where=place,
                next_step="give every row a prompt, or remove the row",
            )
    completion = _completion(row.get(columns.completion) if columns.completion else None, columns.completion, place)
    if completion is None and "chosen" not in normalised:
        completion = _last_turn(normalised, place)
    if completion is not None:
        normalised["completion"] = completion
    answer = row.get(columns.answer) if columns.answer else None
    if answer is not None:
        is_text = isinstance(answer, str)
        normalised["answer"] = answer if is_text else json.dumps(answer, ensure_ascii=False, default=str)
    label = row.get(columns.label) if columns.label else None
    if label is not None:
        normalised |= _label(label, columns, place)
    margin = row.get(columns.margin) if columns.margin else None
    if margin is not None and "chosen" in normalised:
        normalised["margin"] = _number(margin, str(columns.margin), place)
    return normalised


def _require_whole_characters(value: Any, place: str) -> None:
    """Refuses half a surrogate pair: JSON may hold one, and no file, tokenizer or message can."""
    if isinstance(value, Mapping):
        value = list(cast("Mapping[str, Any]", value).values())
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            what = f"{_short(value)} holds half a character (a surrogate without its other half)"
            advice = "mend or remove the row; something cut its text in the middle of a character"
            raise DataError(what, place, advice) from error
    elif isinstance(value, list):
        for part in cast("list[Any]", value):
            _require_whole_characters(part, place)


def _last_turn(normalised: Row, place: str) -> str | None:
    """What the model is to say in a whole conversation: its last turn, which is taken off the prompt."""
    prompt = normalised.get("prompt")
    if prompt is None or isinstance(prompt, str) or prompt[-1]["role"] != "assistant":
        return None
    if len(prompt) == 1:
        raise DataError("the conversation is one assistant message", place, "begin it with a user message")
    normalised["prompt"] = prompt[:-1]
    return prompt[-1]["content"]


def _pair(row: Row, columns: Columns, place: str) -> Row:
    """`chosen` and `rejected`, and their prompt where they are whole conversations: what both begin with."""
    if columns.chosen is None or columns.rejected is None:
        return {}
    first, second = row.get(columns.chosen), row.get(columns.rejected)
    if first is None and second is None:
        return {}
    if first is None or second is None:
        missing = columns.chosen if first is None else columns.rejected
        raise DataError(f"the column {missing!r} is missing", place, "a pair has a chosen and a rejected completion")
    if not (_is_list(first) and _is_list(second) and len(first) > 1 and len(second) > 1):
        return {
            "chosen": _completion(first, columns.chosen, place, "chosen"),
            "rejected": _completion(second, columns.rejected, place, "rejected"),
        }
    chosen = [_message(item, columns.chosen, place) for item in first]
    rejected = [_message(item, columns.rejected, place) for item in second]
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    tails = (chosen[shared:], rejected[shared:])
    if shared == 0 or any(len(tail) != 1 or tail[0]["role"] != "assistant" for tail in tails):
        raise DataError(
            "the two conversations differ in more than the last message of the assistant",
            where=place,
            next_step="cut both after the first answer in which they differ",
        )
    return {"prompt": chosen[:shared], "chosen": tails[0][0]["content"], "rejected": tails[1][0]["content"]}


def _prompt(value: Any, column: str, place: str) -> str | list[Message]:
    """Text that is not empty, or messages with a role and a content each."""
    if isinstance(value, str) and value.strip():
        return value
    if _is_list(value) and value:
        return [_message(item, column, place) for item in cast("Sequence[Any]", value)]
    raise DataError(
        f"the column {column!r} holds {_short(value)}: neither text nor messages",
        where=place,
        next_step='a prompt is a text, or a list of {"role": "user", "content": "..."}',
    )


def _message(item: Any, column: str, place: str) -> Message:
    if isinstance(item, Mapping):
        role, content = (cast("Mapping[str, Any]", item).get(key) for key in ("role", "content"))
        if isinstance(role, str) and isinstance(content, str):
            return {"role": role, "content": content}
    raise DataError(
        f"the column {column!r} holds a message without role and content: {_short(item)}",
        where=place,
        next_step='write each message as {"role": "user", "content": "..."}',
    )


def _completion(value: Any, column: str | None, place: str, role: str = "completion") -> str | None:
    """Text; also of a number, or of one assistant message."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return json.dumps(value)
    if _is_list(value) and len(value) == 1 and column is not None:
        return _message(value[0], column, place)["content"]
    raise DataError(
        f"the column {column!r} holds {_short(value)}, which is no text",
        where=place,
        next_step=f"name the column of the completion in {role}_column",
    )


def _label(value: Any, columns: Columns, place: str) -> Row:
    """Whether the completion is desirable; nothing of a value that says something else, unless it was named."""
    word = json.dumps(value) if isinstance(value, bool | int | float) else str(value).strip().lower()
    if word in DESIRABLE:
        return {"label": True}
    if word in UNDESIRABLE:
        return {"label": False}
    if not columns.label_is_named:
        return {}
    raise DataError(
        f"the column {columns.label!r} holds {_short(value)}: neither desirable nor undesirable",
        where=place,
        next_step="a label is true or false, 1 or 0, 1 or -1, desirable or undesirable",
    )


def _number(value: Any, column: str, place: str) -> float:
    """A finite number; also one that is written as text, as in CSV."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if math.isfinite(number):
        return number
    raise DataError(f"the column {column!r} holds {_short(value)}, which is no number", place, "mend or remove the row")


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
