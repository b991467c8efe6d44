"""Mathematics with reasoning traces of DeepSeek-R1 that were verified (OpenR1-Math-220k, Apache-2.0).

The id, the configuration and the names of the columns are those of the dataset's page. No test reaches the hub: what
is tried are files in that layout, and the protocol of the hub against a server of our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from oxrl_core.datasets.base import dataset
from oxrl_core.datasets.convert import converted, text_at
from oxrl_core.errors import DataError
from oxrl_core.types import Row

HUB_ID = "open-r1/OpenR1-Math-220k"
FOLDER = "OXRL_OPENR1_MATH_DIR"


@dataset("openr1_math", hub_id=HUB_ID, folder_variable=FOLDER)
def openr1_math(
    split: str,
    seed: int,
    *,
    subset: Literal["default", "extended", "all"] = "default",
    completion: Literal["generation", "solution"] = "generation",
) -> Sequence[Row | DataError]:
    """OpenR1-Math; the completion is the first whole trace with a verified answer, else the human `solution`."""

    def convert(row: Row) -> Row:
        traces = _verified(row) if completion == "generation" else []
        worked = traces[0] if traces else text_at(row, "solution")
        return {"prompt": text_at(row, "problem"), "completion": worked, "answer": text_at(row, "answer")}

    return converted(convert, name="OpenR1-Math", hub_id=f"{HUB_ID}:{subset}", split=split, folder_variable=FOLDER)


def _verified(row: Row) -> list[str]:
    """The traces that came to their end, and whose answer math-verify or the judge found right."""
    traces: list[Any] = list(row.get("generations") or [])

    def said(column: str) -> list[Any]:
        found: list[Any] = list(row.get(column) or [])
        return [*found, *[None] * len(traces)]

    whole, checked, judged = said("is_reasoning_complete"), said("correctness_math_verify"), said("correctness_llama")
    return [
        trace
        for trace, is_whole, by_rule, by_judge in zip(traces, whole, checked, judged, strict=False)
        if isinstance(trace, str) and is_whole is not False and (by_rule or by_judge)
    ]
