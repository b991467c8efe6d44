"""One update: any loss becomes a gradient here, and nowhere else is `backward()` called.

    signals = gather_signals(policy, batch)             # what the loss may look at
    values  = algorithm.loss(signals, **params)         # (B, T), one value per token, unreduced
    policy.backward(weighted sum of values / num_items) # num_items: of the WHOLE step, all ranks
    policy.step()

A mean per micro-batch or per rank would weigh tokens by the company they keep; dividing by the items of the whole step
makes the gradient independent of the split (tests/train/test_step.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from oxrl_core.errors import NumericsError
from oxrl_core.types import Metrics, RolloutBatch, Rollouts, TokenBatch, Tokens

if TYPE_CHECKING:
    from oxrl_core.algorithms.base import Algorithm
    from oxrl_core.engine.policy import PolicyEngine


@dataclass(frozen=True)
class Objective:
    """A loss with its parameters and the switches that hold for every loss (config section `algorithm`)."""

    algorithm: Algorithm
    params: dict[str, Any] = field(default_factory=dict)
    aggregation: str = "token"
    constant_length: int = 1  # tokens that a sequence counts for under aggregation "constant"
    temperature: float = 1.0
    kl_coef: float = 0.0
    kl_estimator: str = "k3"
    entropy_coef: float = 0.0


def train_step(policy: PolicyEngine, objective: Objective, batches: Sequence[TokenBatch]) -> Metrics:
    """The metrics of one optimizer update on the micro-batches of this rank; every rank must call it.

    Ranks may hold different numbers of micro-batches: the shorter ones go on with an empty one, so that the
    collectives of sharded weights meet. A step without a single item to train on changes nothing and says `skipped`.
    """
    num_items = sum_over_ranks(policy, [sum(count_items(batch, objective) for batch in batches)])[0]
    num_rounds = int(max_over_ranks(policy, len(batches)))
    if num_items == 0:
        return {"skipped": 1.0}
    tally = Tally()
    for index in range(num_rounds):
        batch = batches[index] if index < len(batches) else placeholder(batches, objective)
        signals = gather_signals(policy, objective, batch)
        values = objective.algorithm.loss(signals, **objective.params)
        values = values + regularizers(signals, objective)
        # Select before weighing: a non-finite value in a masked column would survive a product with 0.
        weights = token_weights(batch, objective).to(values.device)
        mask = signals.completion_mask
        loss = (values[mask] * weights[mask]).sum() / num_items
        tally.add(loss, values, signals, objective)
        policy.backward(loss, last=index == num_rounds - 1)
    metrics = tally.metrics(policy)
    if not math.isfinite(metrics["loss"]):
        raise NumericsError(
            f"the loss of {objective.algorithm.name} is {metrics['loss']}",
            next_step="look at the last recorded rollouts or rows; lower train.lr, or use precision float32",
        )
    metrics.update(policy.step())
    return metrics


def gather_signals(policy: PolicyEngine, objective: Objective, batch: TokenBatch) -> Tokens:
    """What the loss of this batch may look at: log-probs with gradient, and beside them what rollouts carry."""
    is_rollouts = isinstance(batch, RolloutBatch)
    logprobs, entropy = policy.logprobs(batch, objective.temperature, with_entropy=is_rollouts)
    mask = batch.completion_mask.to(logprobs.device)
    if not isinstance(batch, RolloutBatch):
        return Tokens(logprobs=logprobs, completion_mask=mask)
    if batch.old_logprobs is None:
        # Each rollout is trained on once: the old policy is the present one, and no second forward pass is needed.
        # Kept on the batch for the recorder.
        batch.old_logprobs = logprobs.detach()
    reference = policy.reference_logprobs(batch, objective.temperature) if objective.kl_coef > 0 else None
    return Rollouts(
        logprobs=logprobs,
        completion_mask=mask,
        entropy=entropy,
        advantages=batch.advantages.to(logprobs.device),
        old_logprobs=batch.old_logprobs.to(logprobs.device),
        rollout_logprobs=batch.rollout_logprobs.to(logprobs.device),
        ref_logprobs=reference,
    )


def regularizers(signals: Tokens, objective: Objective) -> Tensor | float:
    """KL to the reference and entropy bonus per token, (B, T); 0.0 where both are off."""
    total: Tensor | float = 0.0
    if isinstance(signals, Rollouts) and signals.ref_logprobs is not None:
        total = total + objective.kl_coef * kl_per_token(signals.logprobs, signals.ref_logprobs, objective.kl_estimator)
    if objective.entropy_coef > 0 and signals.entropy is not None:
        total = total - objective.entropy_coef * signals.entropy
    return total


def kl_per_token(logprobs: Tensor, ref_logprobs: Tensor, estimator: str) -> Tensor:
    """Estimate of KL(policy || reference) from the sampled token, (B, T); Schulman 2020, "Approximating KL"."""
    d = ref_logprobs - logprobs
    if estimator == "k1":
        return -d
    if estimator == "k2":
        return d**2 / 2
    return d.exp() - d - 1


def count_items(batch: TokenBatch, objective: Objective) -> float:
    """How much this batch counts in the denominator of its step: tokens, sequences, or sequences x constant."""
    if objective.aggregation == "token":
        return float(batch.num_tokens)
    trained = torch.where(batch.completion_mask, batch.segment_ids, torch.zeros_like(batch.segment_ids))
    num_sequences = sum(len(row.unique()) - int((row == 0).any()) for row in trained)
    return float(num_sequences * (objective.constant_length if objective.aggregation == "constant" else 1))


def token_weights(batch: TokenBatch, objective: Objective) -> Tensor:
    """The weight of each token's value in its step's numerator, (B, T): 1, or 1 / length of its sequence."""
    if objective.aggregation != "sequence":
        return batch.completion_mask.float()
    weights = torch.zeros_like(batch.completion_mask, dtype=torch.float32)
    for segment in range(1, int(batch.segment_ids.max()) + 1):
        mine = batch.completion_mask & (batch.segment_ids == segment)
        weights = torch.where(mine, 1.0 / mine.sum(dim=1, keepdim=True).clamp(min=1), weights)
    return weights


def placeholder(batches: Sequence[TokenBatch], objective: Objective) -> TokenBatch:
    """A batch of one short row with nothing to train on."""
    ids = batches[0].input_ids[:1, :2] if batches else torch.zeros(1, 2, dtype=torch.long)
    rows = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids, dtype=torch.bool),
        "position_ids": torch.arange(ids.shape[1])[None],
        "completion_mask": torch.zeros_like(ids, dtype=torch.bool),
        "segment_ids": torch.ones_like(ids),
    }
    if objective.algorithm.kind == "rl":
        zeros = torch.zeros(ids.shape, dtype=torch.float32)
        return RolloutBatch(**rows, advantages=zeros, rollout_logprobs=zeros)
    return TokenBatch(**rows)


@dataclass
class Tally:
    """Running sums over the micro-batches of a step."""

    sums: dict[str, float] = field(default_factory=dict)
    gap_max: float = 0.0

    @torch.no_grad()
    def add(self, loss: Tensor, values: Tensor, signals: Tokens, objective: Objective) -> None:
        mask = signals.completion_mask
        seen = {"loss": loss, "tokens": mask.sum()}
        if isinstance(signals, Rollouts):
            seen["entropy"] = signals.entropy[mask].sum()
            low, high = objective.params.get("clip_low"), objective.params.get("clip_high")
            ratio = (signals.logprobs - signals.old_logprobs)[mask].exp()
            if low is not None and high is not None:
                seen["ratio/clipped"] = ((ratio < 1 - low) | (ratio > 1 + high)).sum()
            if signals.ref_logprobs is not None:
                seen["kl/ref"] = kl_per_token(signals.logprobs, signals.ref_logprobs, "k3")[mask].sum()
            gap = (signals.old_logprobs - signals.rollout_logprobs)[mask].abs()
            seen["gap/mean"] = gap.sum()
            self.gap_max = max(self.gap_max, float(gap.max()) if gap.numel() else 0.0)
        for name, value in seen.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)

    def metrics(self, policy: PolicyEngine) -> Metrics:
        """Means per trained token over all ranks; the loss is already a share of the whole."""
        names = sorted(self.sums)
        totals = dict(zip(names, sum_over_ranks(policy, [self.sums[name] for name in names]), strict=True))
        tokens = totals.pop("tokens")
        metrics = {name: value if name == "loss" else value / tokens for name, value in totals.items()}
        metrics["num_tokens"] = tokens
        if "gap/mean" in metrics:
            metrics["gap/max"] = max_over_ranks(policy, self.gap_max)
        return metrics


def sum_over_ranks(policy: PolicyEngine, values: Sequence[float]) -> list[float]:
    """The sums over all training ranks, in float64: a token count must stay exact."""
    return _reduce(policy, values, dist.ReduceOp.SUM)


def max_over_ranks(policy: PolicyEngine, value: float) -> float:
    """The largest value of all training ranks."""
    return _reduce(policy, [value], dist.ReduceOp.MAX)[0]


def _reduce(policy: PolicyEngine, values: Sequence[float], operation: dist.ReduceOp.RedOpType) -> list[float]:
    tensor = torch.tensor(values, dtype=torch.float64, device=policy.device)
    if policy.world_size > 1:
        dist.all_reduce(tensor, op=operation)
    return tensor.tolist()
