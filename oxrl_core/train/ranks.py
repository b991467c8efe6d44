"""What the training ranks tell each other about numbers: sums and maxima in float64, and lists of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from oxrl_core.engine.policy import PolicyEngine


def sum_over_ranks(policy: PolicyEngine, values: Sequence[float]) -> list[float]:
    """The sums over all training ranks, in float64: a token count must stay exact."""
    return _reduce(policy, values, dist.ReduceOp.SUM)


def max_over_ranks(policy: PolicyEngine, value: float) -> float:
    """The largest value of all training ranks."""
    return _reduce(policy, [value], dist.ReduceOp.MAX)[0]


def gather_over_ranks(policy: PolicyEngine, mine: Any) -> list[Any]:
    """The plain values of every rank, in the order of the ranks."""
    if policy.world_size == 1:
        return [mine]
    everyone: list[Any] = [None] * policy.world_size
    dist.all_gather_object(everyone, mine)
    return everyone


def _reduce(policy: PolicyEngine, values: Sequence[float], operation: dist.ReduceOp.RedOpType) -> list[float]:
    tensor = torch.tensor(values, dtype=torch.float64, device=policy.device)
    if policy.world_size > 1:
        dist.all_reduce(tensor, op=operation)
    return tensor.tolist()
