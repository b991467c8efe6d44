"""Grade-school mathematics (arXiv:2110.14168, MIT): from the hub, or from a local copy named by OXRL_GSM8K_DIR."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from oxrl_core.datasets import files
from oxrl_core.datasets.base import dataset
from oxrl_core.errors import DataError
from oxrl_core.types import Row

HUB_ID = "openai/gsm8k:main"


@dataset("gsm8k", splits=("train", "test"))
def gsm8k(split: str, seed: int) -> Sequence[Row]:
    """Grade-school word problems; the completion is the worked solution, the answer the number after its `####`."""
    folder = os.environ.get("OXRL_GSM8K_DIR")
    rows = files.read_path(Path(folder).expanduser(), split)[0] if folder else files.read_hub(HUB_ID, split)
    return [_row(row, f"gsm8k {split}, row {index}") for index, row in enumerate(rows)]


def _row(row: Row, place: str) -> Row:
    solution = row.get("answer")
    if not isinstance(solution, str) or "####" not in solution or not row.get("question"):
        raise DataError(
            "not a row of GSM8K: it needs a question, and an answer with ####", place, "check the folder OXRL_GSM8K_DIR"
        )
    return {"prompt": row["question"], "completion": solution, "answer": solution.rpartition("####")[2].strip()}
