"""The course of a metric in one line of text."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(
    values: Sequence[float | None],
    width: int = 32,
    *,
    blocks: str = BLOCKS,
    low: float | None = None,
    high: float | None = None,
) -> str:
    """The values as at most `width` blocks, neighbours averaged where there are more values than columns.

    `low` and `high` are the values of the lowest and highest block: given, lines can be compared; none: the extremes.
    """
    numbers = [value for value in values if value is not None and not math.isnan(value)]
    if not numbers:
        return ""
    if len(numbers) > width:
        edges = [index * len(numbers) // width for index in range(width + 1)]
        parts = [numbers[start:end] for start, end in itertools.pairwise(edges)]
        numbers = [sum(part) / len(part) for part in parts]
    low, high = min(numbers) if low is None else low, max(numbers) if high is None else high
    if high == low:
        return blocks[(len(blocks) - 1) // 2] * len(numbers)
    last = len(blocks) - 1
    return "".join(blocks[max(0, min(last, int((value - low) / (high - low) * len(blocks))))] for value in numbers)
