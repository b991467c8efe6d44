"""The forms of MBPP and HumanEval, by problems of our own: references are paid, programs that know nothing are not."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from oxrl_core.rewards.code import code, gold_program
from oxrl_core.types import Prompt, Rollout, Score

FORMS = {
    name: yaml.safe_load((Path(__file__).parent / f"{name}_form.yaml").read_text()) for name in ("mbpp", "humaneval")
}
ROWS = [pytest.param(row, id=f"{name}-{row['task_id']}") for name, rows in FORMS.items() for row in rows]

BODIES = {
    "None": "return None",
    "True": "return True",
    "False": "return False",
    "zero": "return 0",
    "one": "return 1",
    "empty list": "return []",
    "empty text": "return ''",
    "first argument": "return a[0]",
    "all arguments": "return a",
    "nothing at all": "pass",
    "an end": "raise SystemExit(0)",
    "a hard end": "import os; os._exit(0)",
    "AssertionError": "raise AssertionError",
    "StopIteration": "raise StopIteration",
    "equal to anything": "return type('E', (), {'__eq__': lambda s, o: True, '__bool__': lambda s: True})()",
    "a list equal to anything": "return type('E', (list,), {'__eq__': lambda s, o: True})()",
    "a number equal to anything": "return type('E', (float,), {'__eq__': lambda s, o: True})(1)",
}


def verdict(text: str, row: dict, **params: bool) -> Score:
    return code(Rollout(Prompt("own/train/0", [], "", row=row), 0, [], [], "stop", 0, 0, text), **params)


def name_of(row: dict) -> str:
    """The function that the row's tests call."""
    return row.get("entry_point") or row["code"].rpartition("def ")[2].partition("(")[0]


def test_there_are_at_least_twenty_of_each_form():
    assert all(len(rows) >= 20 for rows in FORMS.values())


@pytest.mark.parametrize("row", ROWS)
def test_a_reference_is_paid(row):
    gold = gold_program(Prompt("own/train/0", [], "", row=row))
    score = verdict(gold, row)
    assert (score.value, score.status, score.parts) == (1.0, "ok", {"tests": 1.0}), score.detail


@pytest.mark.parametrize("row", ROWS)
def test_a_program_that_knows_nothing_is_not_paid(row):
    paid = []
    for name, body in BODIES.items():
        score = verdict(f"```python\ndef {name_of(row)}(*a, **k):\n    {body}\n```", row, interpreter=False)
        assert score.status == "ok"
        if score.value:
            paid.append(name)
    assert paid == []
