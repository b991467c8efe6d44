"""A loss with the switches that hold for every loss: how values are weighed, regularized and corrected."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from oxrl_core.algorithms.policy_gradient import MAX_LOG_RATIO
from oxrl_core.types import LabeledBatch, PairBatch, Rollouts, TokenBatch

if TYPE_CHECKING:
    from oxrl_core.algorithms.base import Algorithm


@dataclass(frozen=True)
class Objective:
    """A loss with its parameters and the switches of the config section `algorithm`."""

    algorithm: Algorithm
    params: dict[str, Any] = field(default_factory=dict)
    aggregation: str = "token"
    constant_length: int = 1  # tokens that a sequence counts for under aggregation "constant"
    temperature: float = 1.0
    kl_coef: float = 0.0  # of the KL in the loss; one in the reward has been taken off before
    kl_estimator: str = "k3"
    entropy_coef: float = 0.0
    mismatch: str = "off"
    mismatch_level: str = "token"
    mismatch_low: float = 0.5
    mismatch_high: float = 2.0
    value_coef: float = 0.0  # above 0: the policy has a value head, which learns beside it
    value_clip: float = 0.2


def regularizers(signals: Rollouts, objective: Objective) -> Tensor | float:
    """KL to the reference and entropy bonus per token, (B, T); 0.0 where both are off."""
    total: Tensor | float = 0.0
    if objective.kl_coef > 0 and signals.ref_logprobs is not None:
        # Other columns may hold anything, and 0 x inf would carry a NaN into the gradient.
        logprobs, ref_logprobs, old_logprobs = (
            tensor.masked_fill(~signals.completion_mask, 0.0)
            for tensor in (signals.logprobs, signals.ref_logprobs, signals.old_logprobs)
        )
        kl = kl_per_token(logprobs, ref_logprobs, objective.kl_estimator, old_logprobs)
        total = total + objective.kl_coef * kl
    if objective.entropy_coef > 0 and signals.entropy is not None:
        total = total - objective.entropy_coef * signals.entropy
    return total


def kl_per_token(logprobs: Tensor, ref_logprobs: Tensor, estimator: str, old_logprobs: Tensor | None = None) -> Tensor:
    """Estimate of KL(policy || reference) from the sampled token, (B, T); Schulman 2020, "Approximating KL".

    `unbiased` weighs k3 with the policy's ratio to the one that drew the token: value and gradient are then those of
    the true KL (arXiv:2512.02556, section 3.1), on-policy as well, where the ratio is 1 and its gradient is not 0.
    """
    d = ref_logprobs - logprobs
    if estimator == "k1":
        return -d
    if estimator == "k2":
        return d**2 / 2
    k3 = d.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp() - d - 1
    if estimator == "unbiased" and old_logprobs is not None:
        return (logprobs - old_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp() * k3
    return k3


def mismatch_weights(signals: Rollouts, objective: Objective) -> Tensor | None:
    """How much each token's value counts, (B, T), for what the sampler and the trainer say differently of it.

    w = pi_trainer / pi_sampler of the policy that drew the rollout. tis: min(w, high) (arXiv:2508.08221); icepop: w
    inside [low, high], else 0 (arXiv:2510.18855); mis: w up to high, else 0. At level `sequence` w is the product over
    the completion's tokens. None where the correction is off.
    """
    if objective.mismatch == "off" or signals.rollout_logprobs is None:
        return None
    log_weights = (signals.old_logprobs - signals.rollout_logprobs).masked_fill(~signals.completion_mask, 0.0)
    if objective.mismatch_level == "sequence":
        log_weights = log_weights.sum(1, keepdim=True).expand_as(log_weights)
    weights = log_weights.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp().detach()
    low, high = objective.mismatch_low, objective.mismatch_high
    if objective.mismatch == "tis":
        return weights.clamp(max=high)
    kept = weights <= high
    if objective.mismatch == "icepop":
        kept &= weights >= low
    return weights * kept


def count_items(batch: TokenBatch, objective: Objective) -> float:
    """How much this batch counts in the denominator of its step: pairs, tokens, sequences, or sequences x constant."""
    if isinstance(batch, PairBatch | LabeledBatch):
        return float(rows_with_tokens(batch).sum())
    if objective.aggregation == "token":
        return float(batch.num_tokens)
    trained = torch.where(batch.completion_mask, batch.segment_ids, torch.zeros_like(batch.segment_ids))
    num_sequences = sum(len(row.unique()) - int((row == 0).any()) for row in trained)
    return float(num_sequences * (objective.constant_length if objective.aggregation == "constant" else 1))


def rows_with_tokens(batch: PairBatch | LabeledBatch) -> Tensor:
    """(B,) bool: the pairs or labeled examples of which both rows have tokens to train on."""
    first, second = batch.completion_mask.any(dim=1).chunk(2)
    return first & second


def token_weights(batch: TokenBatch, objective: Objective) -> Tensor:
    """The weight of each token's value in its step's numerator, (B, T): 1, or 1 / length of its sequence."""
    if objective.aggregation != "sequence":
        return batch.completion_mask.float()
    weights = torch.zeros_like(batch.completion_mask, dtype=torch.float32)
    for segment in range(1, int(batch.segment_ids.max()) + 1):
        mine = batch.completion_mask & (batch.segment_ids == segment)
        weights = torch.where(mine, 1.0 / mine.sum(dim=1, keepdim=True).clamp(min=1), weights)
    return weights
