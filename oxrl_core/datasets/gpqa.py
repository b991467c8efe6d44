"""Questions that a search engine does not answer (GPQA, arXiv:2311.12022, CC BY 4.0); gated on the hub.

The id, the configuration and the names of the columns are those of the dataset's page. No test reaches the hub: what
is tried are files in that layout, and the protocol of the hub against a server of our own.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

from oxrl_core.datasets.base import dataset
from oxrl_core.datasets.convert import converted, text_at
from oxrl_core.errors import DataError
from oxrl_core.types import Row

HUB_ID = "Idavidrein/gpqa"
FOLDER = "OXRL_GPQA_DIR"
LETTERS = "ABCD"


@dataset("gpqa", hub_id=HUB_ID, folder_variable=FOLDER)
def gpqa(
    split: str, seed: int, *, subset: Literal["main", "diamond", "extended"] = "main"
) -> Sequence[Row | DataError]:
    """GPQA; the four choices stand in an order that depends on the row alone, and the answer is the letter."""
    hub_id = f"{HUB_ID}:gpqa_{subset}"
    return converted(_row, name="GPQA", hub_id=hub_id, split=split, folder_variable=FOLDER)


def _row(row: Row) -> Row:
    question, right = text_at(row, "Question").strip(), text_at(row, "Correct Answer").strip()
    choices = [right, *(text_at(row, f"Incorrect Answer {number}").strip() for number in (1, 2, 3))]
    # The row's own seed, not the run's: everybody's test is the same, and a row keeps its order when others go.
    order = random.Random(f"gpqa/{question}").sample(range(len(choices)), len(choices))
    letter = LETTERS[order.index(0)]
    listed = "\n".join(f"({LETTERS[at]}) {choices[index]}" for at, index in enumerate(order))
    explanation = str(row.get("Explanation") or "").strip()
    return {
        "prompt": f'{question}\n\n{listed}\n\nEnd with "The answer is (X)", where X is the letter of the right choice.',
        "completion": f"{explanation}\n\nThe answer is ({letter})".strip(),
        "answer": letter,
        "choices": [choices[index] for index in order],
        "subject": str(row.get("Subdomain") or row.get("High-level domain") or ""),
    }
