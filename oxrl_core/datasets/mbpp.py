"""Short Python programs with tests (MBPP, arXiv:2108.07732, CC BY 4.0).

The id, the configuration and the names of the columns are those of the dataset's page. No test reaches the hub: what
is tried are files in that layout, and the protocol of the hub against a server of our own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal, cast

from oxrl_core.datasets.base import dataset
from oxrl_core.datasets.convert import Unusable, converted, text_at
from oxrl_core.errors import DataError
from oxrl_core.types import Row

HUB_ID = "google-research-datasets/mbpp"
FOLDER = "OXRL_MBPP_DIR"


@dataset("mbpp", splits=("train", "test", "validation", "prompt"), hub_id=HUB_ID, folder_variable=FOLDER)
def mbpp(split: str, seed: int, *, subset: Literal["full", "sanitized"] = "full") -> Sequence[Row | DataError]:
    """MBPP; the prompt shows the tests, as in the paper. The answer is the list of tests, as JSON."""
    hub_id = f"{HUB_ID}:{subset}"
    return converted(_row, name="MBPP", hub_id=hub_id, split=split, folder_variable=FOLDER)


def _row(row: Row) -> Row:
    tests = _texts(row, "test_list")
    if not tests:
        raise Unusable("it has no tests in test_list")
    setup = "\n".join([*_texts(row, "test_imports"), str(row.get("test_setup_code") or "")]).strip()
    task = text_at(row, "text", "prompt").strip()
    shown = "\n".join(tests)
    return {
        "prompt": f"{task}\nYour code should pass these tests:\n\n{shown}",
        "completion": f"```python\n{text_at(row, 'code').strip()}\n```".replace("\r\n", "\n"),
        "answer": json.dumps(tests),
        "test_list": tests,
        "test_setup_code": setup,
        "challenge_test_list": _texts(row, "challenge_test_list"),
        "task_id": row.get("task_id"),
    }


def _texts(row: Row, column: str) -> list[str]:
    """The list of texts in a column; CSV has it as JSON."""
    value: Any = row.get(column)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise Unusable(f"its {column} is no list") from error
    return [str(item).replace("\r\n", "\n") for item in cast("list[Any]", value or [])]
