"""Competition mathematics (MATH, arXiv:2103.03874, MIT), with its levels and subjects.

The id, the configuration and the names of the columns are those of the dataset's page. No test reaches the hub: what
is tried are files in that layout, and the protocol of the hub against a server of our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from oxrl_core.datasets.base import dataset
from oxrl_core.datasets.convert import Unusable, converted, text_at
from oxrl_core.errors import DataError
from oxrl_core.types import Row

HUB_ID = "DigitalLearningGmbH/MATH-lighteval"
FOLDER = "OXRL_MATH_DIR"
Level = Annotated[int, Field(ge=1, le=5)]


@dataset("math", splits=("train", "test"), hub_id=HUB_ID, folder_variable=FOLDER)
def math(
    split: str, seed: int, *, levels: Sequence[Level] = (), subjects: Sequence[str] = ()
) -> Sequence[Row | DataError]:
    """MATH; the answer is the last box of the worked solution. `levels` 1 to 5 and `subjects`; none: all of them."""

    def convert(row: Row) -> Row | None:
        level, subject = _level(row), text_at(row, "subject", "type")
        if (levels and level not in levels) or (subjects and subject not in subjects):
            return None
        solution = text_at(row, "solution")
        answer = row.get("answer") or last_boxed(solution)
        if not answer:
            raise Unusable("its solution has no \\boxed{} answer")
        problem = text_at(row, "problem")
        return {"prompt": problem, "completion": solution, "answer": answer, "level": level, "subject": subject}

    return converted(convert, name="MATH", hub_id=HUB_ID, split=split, folder_variable=FOLDER)


def last_boxed(text: str) -> str | None:
    """What stands in the last `\\boxed{...}`, which may hold braces of its own; None where there is no whole one."""
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        # \boxed 7, without braces, as some solutions have it
        _, found, rest = text.rpartition("\\boxed ")
        return rest.split("$")[0].strip() or None if found else None
    begin = text.index("{", start) + 1
    depth = 1
    for at in range(begin, len(text)):
        if text[at] in "{}" and text[at - 1] != "\\":
            depth += 1 if text[at] == "{" else -1
            if depth == 0:
                return text[begin:at].strip() or None
    return None


def _level(row: Row) -> int | None:
    """5 of 5 or of "Level 5"; None of "Level ?", which some rows have."""
    digits = str(row.get("level", "")).removeprefix("Level").strip()
    return int(digits) if digits.isdecimal() else None
