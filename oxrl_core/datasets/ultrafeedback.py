"""Pairs of answers that a judge has rated (UltraFeedback, arXiv:2310.01377, MIT), in its binarized form.

The id, the configuration and the names of the columns are those of the dataset's page. No test reaches the hub: what
is tried are files in that layout, and the protocol of the hub against a server of our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from oxrl_core.datasets.base import dataset
from oxrl_core.datasets.convert import Unusable, converted, text_at
from oxrl_core.errors import DataError
from oxrl_core.types import Row

HUB_ID = "HuggingFaceH4/ultrafeedback_binarized"
FOLDER = "OXRL_ULTRAFEEDBACK_DIR"


@dataset("ultrafeedback", splits=("train", "test"), hub_id=HUB_ID, folder_variable=FOLDER)
def ultrafeedback(split: str, seed: int, *, min_margin: float = 0.0) -> Sequence[Row | DataError]:
    """UltraFeedback; the margin is the difference of the two ratings. Pairs below `min_margin` are left out."""

    def convert(row: Row) -> Row | None:
        margin = _rating(row, "score_chosen") - _rating(row, "score_rejected")
        if margin < min_margin:
            return None
        return {
            "prompt": text_at(row, "prompt"),
            "chosen": _last_words(row, "chosen"),
            "rejected": _last_words(row, "rejected"),
            "margin": margin,
        }

    return converted(convert, name="UltraFeedback", hub_id=HUB_ID, split=f"{split}_prefs", folder_variable=FOLDER)


def _last_words(row: Row, column: str) -> str:
    """The assistant's message that ends the conversation in a column."""
    messages = cast("list[dict[str, Any]]", row.get(column) or [])
    try:
        last = messages[-1]
        if last["role"] == "assistant" and isinstance(last["content"], str):
            return last["content"]
    except (IndexError, KeyError, TypeError) as error:
        raise Unusable(f"its {column} holds no messages with role and content") from error
    raise Unusable(f"its {column} does not end with a message of the assistant")


def _rating(row: Row, column: str) -> float:
    value: Any = row.get(column)
    return float(value) if isinstance(value, int | float) else 0.0
