"""Grade-school mathematics (arXiv:2110.14168, MIT): from the hub, or from a local copy named by OXRL_GSM8K_DIR.

The id, the configuration and the names of the columns are those of the dataset's page. No test reaches the hub: what
is tried are files in that layout, and the protocol of the hub against a server of our own.
"""

from __future__ import annotations

from collections.abc import Sequence

from oxrl_core.datasets.base import dataset
from oxrl_core.datasets.convert import Unusable, converted, text_at
from oxrl_core.errors import DataError
from oxrl_core.types import Row

HUB_ID = "openai/gsm8k:main"
FOLDER = "OXRL_GSM8K_DIR"


@dataset("gsm8k", splits=("train", "test"), hub_id=HUB_ID, folder_variable=FOLDER)
def gsm8k(split: str, seed: int) -> Sequence[Row | DataError]:
    """Grade-school word problems; the completion is the worked solution, the answer the number after its `####`."""
    return converted(_row, name="GSM8K", hub_id=HUB_ID, split=split, folder_variable=FOLDER)


def _row(row: Row) -> Row:
    solution = text_at(row, "answer")
    if "####" not in solution:
        raise Unusable("its answer has no ####")
    return {
        "prompt": text_at(row, "question"),
        "completion": solution,
        "answer": solution.rpartition("####")[2].strip(),
    }
