"""Which rows share a micro-batch, and which examples share a row. Pure functions of lengths."""

from __future__ import annotations

import bisect
from collections.abc import Sequence


def token_budget(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Micro-batches of row indices, longest first, with rows x longest <= max_tokens; a longer row goes alone.

    Rows of like length share a micro-batch, so little of it is padding; the largest one comes first, so that memory
    runs out at once or never.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        # The first row of a micro-batch is its longest: all others are padded to it.
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= max_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def pack(lengths: Sequence[int], row_tokens: int) -> list[list[int]]:
    """Rows of example indices with at most row_tokens tokens each (best-fit decreasing); a longer example goes alone.

    Within a row the examples keep their order, and the rows are in the order of their first examples.
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, row), sorted: the best fit is the first that is large enough
    for index in sorted(range(len(lengths)), key=lambda example: (-lengths[example], example)):
        fit = bisect.bisect_left(room, (lengths[index], -1))
        if fit < len(room):
            left, row = room.pop(fit)
            rows[row].append(index)
        else:
            left, row = row_tokens, len(rows)
            rows.append([index])
        if left > lengths[index]:
            bisect.insort(room, (left - lengths[index], row))
    return sorted(sorted(row) for row in rows)
