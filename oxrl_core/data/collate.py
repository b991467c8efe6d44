"""Examples and rollouts become right-padded, token-aligned tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TypeVar

import torch
from torch import Tensor

from oxrl_core.data.pack import pack
from oxrl_core.data.render import Example
from oxrl_core.types import Rollout, RolloutBatch, TokenBatch

Batch = TypeVar("Batch", bound=TokenBatch)


def collate_examples(examples: Sequence[Example], pad_id: int, packing: bool, row_tokens: int) -> TokenBatch:
    """Every example once: one per row, or packed into rows of at most row_tokens tokens."""
    lengths = [len(example.token_ids) for example in examples]
    rows = pack(lengths, row_tokens) if packing else [[index] for index in range(len(examples))]
    return _token_batch([[examples[index] for index in row] for row in rows], pad_id)


def collate_rollouts(rollouts: Sequence[Rollout], advantages: Sequence[float], pad_id: int) -> RolloutBatch:
    """One rollout per row, in order; its advantage stands on every completion token."""
    assert len(rollouts) == len(advantages), "one advantage for each rollout"
    examples: list[list[Example]] = []
    for rollout in rollouts:
        assert len(rollout.rollout_logprobs) == len(rollout.token_ids), "one log-prob for each completion token"
        prompt_ids = rollout.prompt.token_ids
        mask = [False] * len(prompt_ids) + [True] * len(rollout.token_ids)
        examples.append([Example([*prompt_ids, *rollout.token_ids], mask)])
    batch = _token_batch(examples, pad_id)
    rollout_logprobs = torch.zeros(batch.input_ids.shape, dtype=torch.float32)
    for row, rollout in enumerate(rollouts):
        start = len(rollout.prompt.token_ids)
        rollout_logprobs[row, start : start + len(rollout.token_ids)] = torch.tensor(rollout.rollout_logprobs)
    return RolloutBatch(
        **{part.name: getattr(batch, part.name) for part in fields(batch)},
        advantages=torch.tensor(list(advantages), dtype=torch.float32)[:, None] * batch.completion_mask,
        rollout_logprobs=rollout_logprobs.masked_fill(~batch.completion_mask, 0.0),
    )


def split_rows(batch: Batch, indices: Sequence[int]) -> Batch:
    """The rows of those indices, in that order, without the columns that are padding in all of them."""
    rows = torch.as_tensor(list(indices), dtype=torch.long, device=batch.input_ids.device)
    width = int(batch.attention_mask[rows].sum(dim=1).max()) if len(indices) else 0
    tensors = {part.name: getattr(batch, part.name) for part in fields(batch)}
    return replace(batch, **{name: value[rows, :width] for name, value in tensors.items() if isinstance(value, Tensor)})


def _token_batch(rows: Sequence[Sequence[Example]], pad_id: int) -> TokenBatch:
    """One row of tensors for each list of examples."""
    width = max((sum(len(example.token_ids) for example in row) for row in rows), default=0)
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
    return batch
