"""Examples, pairs and rollouts become right-padded, token-aligned tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from oxrl_core.data.examples import as_example
from oxrl_core.data.pack import pack
from oxrl_core.types import (
    Credit,
    Example,
    LabeledBatch,
    LabeledExample,
    Measurement,
    PairBatch,
    PairExample,
    Rollout,
    RolloutBatch,
    TokenBatch,
)

if TYPE_CHECKING:
    from oxrl_core.data.media import MediaReader

Batch = TypeVar("Batch", bound=TokenBatch)


def collate_examples(
    examples: Sequence[Example], pad_id: int, packing: bool, row_tokens: int, media: MediaReader | None = None
) -> TokenBatch:
    """Every example once: one per row, or packed into rows of at most row_tokens tokens."""
    lengths = [len(example.token_ids) for example in examples]
    rows = pack(lengths, row_tokens) if packing else [[index] for index in range(len(examples))]
    return _token_batch([[examples[index] for index in row] for row in rows], pad_id, media=media)


def collate_rollouts(
    rollouts: Sequence[Rollout],
    credits: Sequence[Credit],
    pad_id: int,
    *,
    spare_column: bool = False,
    media: MediaReader | None = None,
) -> RolloutBatch:
    """One rollout per row, in order, each completion token with what it teaches. What no rollout has stays None.

    A spare column is padding at the right of all rows: room for the value of the state after the last token.
    """
    rows = [[as_example(rollout)] for rollout in rollouts]
    batch = _token_batch(rows, pad_id, int(spare_column), media)
    starts = [len(rollout.prompt.token_ids) for rollout in rollouts]
    lengths = [len(rollout.token_ids) for rollout in rollouts]
    assert len(credits) == len(rollouts), "one credit for each rollout"

    def aligned(numbers: Sequence[Sequence[float]], name: str) -> Tensor:
        """(B, T) float32 of one number for each completion token; 0 elsewhere."""
        tensor = torch.zeros(batch.input_ids.shape, dtype=torch.float32)
        for row, (start, length, of_row) in enumerate(zip(starts, lengths, numbers, strict=True)):
            assert len(of_row) == length, f"{name}: one number for each completion token, not {len(of_row)} of {length}"
            tensor[row, start : start + length] = torch.tensor(of_row, dtype=torch.float32)
        return tensor.masked_fill(~batch.completion_mask, 0.0)

    def where_measured(numbers: Sequence[Sequence[float]], name: str) -> Tensor | None:
        return aligned(numbers, name) if any(numbers) else None

    measured = [credit.measurement or Measurement([]) for credit in credits]
    return RolloutBatch(
        **_parts(batch),
        advantages=aligned([credit.advantages for credit in credits], "advantages"),
        rollout_logprobs=aligned([rollout.rollout_logprobs for rollout in rollouts], "rollout_logprobs"),
        old_logprobs=where_measured([measurement.old_logprobs for measurement in measured], "old_logprobs"),
        ref_logprobs=where_measured([measurement.ref_logprobs for measurement in measured], "ref_logprobs"),
        old_values=where_measured([measurement.values for measurement in measured], "values"),
        returns=where_measured([credit.returns for credit in credits], "returns"),
    )


def collate_pairs(pairs: Sequence[PairExample], pad_id: int, media: MediaReader | None = None) -> PairBatch:
    """B pairs as 2B rows: all chosen completions, then all rejected ones in the same order."""
    rows = [[pair.chosen] for pair in pairs] + [[pair.rejected] for pair in pairs]
    return PairBatch(
        **_parts(_token_batch(rows, pad_id, media=media)),
        margins=torch.tensor([pair.margin for pair in pairs], dtype=torch.float32),
        ref_logprobs=_reference_sums([pair.ref_logprobs for pair in pairs]),
    )


def collate_labeled(examples: Sequence[LabeledExample], pad_id: int, media: MediaReader | None = None) -> LabeledBatch:
    """B labeled examples as 2B rows: all examples, then all their mismatched twins in the same order."""
    rows = [[item.example] for item in examples] + [[item.mismatched] for item in examples]
    return LabeledBatch(
        **_parts(_token_batch(rows, pad_id, media=media)),
        is_desirable=torch.tensor([item.is_desirable for item in examples], dtype=torch.bool),
        ref_logprobs=_reference_sums([item.ref_logprobs for item in examples]),
    )


def _reference_sums(sums: Sequence[tuple[float, float] | None]) -> Tensor | None:
    """(2B,) float32 sums of the first rows, then of the second ones; None unless every item has its two."""
    known = [item for item in sums if item is not None]
    if not known or len(known) < len(sums):
        return None
    return torch.tensor([first for first, _ in known] + [second for _, second in known], dtype=torch.float32)


def split_rows(batch: Batch, indices: Sequence[int]) -> Batch:
    """The rows of those indices, in that order, without the columns that are padding in all of them."""
    assert not isinstance(batch, PairBatch | LabeledBatch), "a row of a pair without the other one is no pair"
    assert batch.media_inputs is None, "which media belong to which row is not known any more"
    rows = torch.as_tensor(list(indices), dtype=torch.long, device=batch.input_ids.device)
    width = int(batch.attention_mask[rows].sum(dim=1).max()) if len(indices) else 0
    tensors = _parts(batch)
    return replace(batch, **{name: value[rows, :width] for name, value in tensors.items() if isinstance(value, Tensor)})


def _parts(batch: TokenBatch) -> dict[str, Any]:
    return {part.name: getattr(batch, part.name) for part in fields(batch)}


def _token_batch(
    rows: Sequence[Sequence[Example]], pad_id: int, num_spare_columns: int = 0, media: MediaReader | None = None
) -> TokenBatch:
    """One row of tensors for each list of examples, with the features of their media where the model reads such."""
    width = max((sum(len(example.token_ids) for example in row) for row in rows), default=0) + num_spare_columns
    batch = TokenBatch(
        input_ids=torch.full((len(rows), width), pad_id, dtype=torch.long),
        attention_mask=torch.zeros((len(rows), width), dtype=torch.bool),
        position_ids=torch.zeros((len(rows), width), dtype=torch.long),
        completion_mask=torch.zeros((len(rows), width), dtype=torch.bool),
        segment_ids=torch.zeros((len(rows), width), dtype=torch.long),
    )
    for number, row in enumerate(rows):
        start = 0
        for segment, example in enumerate(row, start=1):
            here = slice(start, start + len(example.token_ids))
            batch.input_ids[number, here] = torch.tensor(example.token_ids, dtype=torch.long)
            batch.attention_mask[number, here] = True
            batch.position_ids[number, here] = torch.arange(len(example.token_ids))
            batch.completion_mask[number, here] = torch.tensor(example.completion_mask, dtype=torch.bool)
            batch.completion_mask[number, start] = False  # nothing stands before it that could predict it
            batch.segment_ids[number, here] = segment
            start = here.stop
    if media is not None:
        batch.media_inputs = media.collate([example for row in rows for example in row])
    return batch
