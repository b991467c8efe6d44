"""Which rows hold what is learned from."""

from __future__ import annotations

from typing import Any

import pytest

from oxrl_core.config.lesson_rows import check_row

ASKED = [{"role": "user", "content": "a"}]
ANSWERED = [*ASKED, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]


@pytest.mark.parametrize(
    ("lesson", "train_on", "row", "lacks"),
    [
        ("examples", "last", {"prompt": "a", "completion": "b"}, ""),
        ("examples", "last", {"prompt": "a", "completion": ""}, "no completion"),
        ("examples", "last", {"text": "a", "completion": "b"}, "no prompt"),
        ("examples", "last", {"prompt": ANSWERED}, "no completion"),
        ("examples", "all", {"prompt": ANSWERED}, ""),
        ("examples", "all", {"prompt": ASKED}, "no completion"),
        ("pairs", "last", {"prompt": "a", "chosen": "b", "rejected": ""}, "no rejected completion"),
        ("pairs", "last", {"prompt": "a"}, "no chosen completion and no rejected completion"),
        ("labeled", "last", {"prompt": "a", "completion": "b", "label": False}, ""),
        ("labeled", "last", {"prompt": "a", "completion": "b"}, "no label"),
        ("documents", "last", {"text": "a"}, ""),
        ("documents", "last", {"text": ""}, "no text"),
        ("documents", "last", {"prompt": "a", "completion": "b"}, ""),
        ("documents", "last", {"prompt": "a"}, "no text"),
        ("advantages", "last", {"prompt": "a"}, ""),
        ("advantages", "last", {"text": "a"}, "no prompt"),
    ],
)
def test_what_a_row_lacks_is_said_with_its_place(lesson: str, train_on: str, row: dict[str, Any], lacks: str) -> None:
    found = check_row(lesson, train_on)(row, "a.jsonl, line 7")
    assert (found.what if found else "") == (f"the row has {lacks} to learn from" if lacks else "")
    assert found is None or (found.where, "remove the row" in found.next_step) == ("a.jsonl, line 7", True)
