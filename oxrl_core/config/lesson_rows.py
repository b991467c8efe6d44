"""What a row must hold to be learned from. One that does not is left out, counted and named like an unreadable one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from oxrl_core.algorithms.base import COMPLETION_LESSONS
from oxrl_core.errors import DataError
from oxrl_core.types import Message, Row

COLUMNS_OF_LESSON: dict[str, tuple[str, ...]] = {
    "pairs": ("prompt", "chosen", "rejected"),
    "labeled": ("prompt", "completion", "label"),
    "documents": ("text",),
    **dict.fromkeys(COMPLETION_LESSONS, ("prompt", "completion")),
}
WHOLE = ("prompt", "text", "label")  # the other columns hold completions


def missing_columns(row: Row, lesson: str, train_on: str) -> list[str]:
    """The parts that the lesson learns from and the row does not have, or has without a word in it."""
    if lesson == "examples" and train_on == "all" and _has_answer(row.get("prompt")):
        return []
    if lesson == "documents" and row.get("text") is None and row.get("prompt") and row.get("completion"):
        return []  # read one after the other they are a text
    return [key for key in COLUMNS_OF_LESSON.get(lesson, ("prompt",)) if row.get(key) in (None, "", [])]


def _has_answer(prompt: str | Sequence[Message] | None) -> bool:
    """Whether a conversation has an answer of the assistant after its first message."""
    return not isinstance(prompt, str) and any(
        message["role"] == "assistant" and message["content"] for message in (prompt or ())[1:]
    )


def named(key: str) -> str:
    """What a part of a row is called in a message."""
    return key if key in (*WHOLE, "completion") else f"{key} completion"


def check_row(lesson: str, train_on: str) -> Callable[[Row, str], DataError | None]:
    """A function that says of a row, and where it stands, why the lesson learns nothing from it; None where it does."""
    return partial(_check, lesson, train_on)


def _check(lesson: str, train_on: str, row: Row, place: str) -> DataError | None:
    missing = missing_columns(row, lesson, train_on)
    if not missing:
        return None
    return DataError(
        f"the row has no {' and no '.join(map(named, missing))} to learn from",
        place,
        f"name its column in {missing[0]}_column, or remove the row",
    )
