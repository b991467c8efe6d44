"""What a supervised step is trained on, row by row: how much of it, where, and whether its end is learned."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from oxrl_core.types import Example, LabeledExample, Metrics, PairExample


@dataclass(frozen=True)
class RowFacts:
    """One item of a supervised step; of a pair both of its rows of tokens together."""

    tokens: int
    trained: int
    first_trained: int  # place of the first token that is trained on; -1 where none is
    behind: int  # tokens after the last one that is trained on; all where none is
    ends: bool  # the last trained token of each of its rows is one that ends a completion
    doubled: int = -1  # the token with which it begins twice, as a row with two BOS does; -1 where it does not


def facts_of_items(items: Sequence[Any], end_ids: Collection[int]) -> list[RowFacts]:
    """The facts of each item, in order."""
    return [_facts(item, end_ids) for item in items]


def metrics_of_rows(facts: Sequence[RowFacts]) -> Metrics:
    """`mask/eos`: the share of items that learn their end; `mask/trained`: tokens trained on in each, on average."""
    if not facts:
        return {}
    number = len(facts)
    return {"mask/eos": sum(row.ends for row in facts) / number, "mask/trained": sum(r.trained for r in facts) / number}


def _facts(item: Any, end_ids: Collection[int]) -> RowFacts:
    rows = _rows(item)
    lasts = [_last(row.completion_mask) for row in rows]
    first = rows[0]
    return RowFacts(
        tokens=sum(len(row.token_ids) for row in rows),
        trained=sum(sum(row.completion_mask) for row in rows),
        first_trained=first.completion_mask.index(True) if lasts[0] >= 0 else -1,
        behind=len(first.token_ids) - 1 - lasts[0],
        ends=all(last >= 0 and row.token_ids[last] in end_ids for row, last in zip(rows, lasts, strict=True)),
        doubled=first.token_ids[0] if len(set(first.token_ids[:2])) == 1 < len(first.token_ids) else -1,
    )


def _rows(item: Any) -> list[Example]:
    if isinstance(item, PairExample):
        return [item.chosen, item.rejected]
    if isinstance(item, LabeledExample):
        return [item.example]  # its mismatched twin is there to be compared with, not to be learned
    return [item]


def _last(mask: Sequence[bool]) -> int:
    """The place of the last True; -1 where there is none."""
    for at in range(len(mask) - 1, -1, -1):
        if mask[at]:
            return at
    return -1
