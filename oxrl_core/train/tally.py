"""Running sums over the micro-batches of a step, from which its metrics are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from oxrl_core.algorithms.policy_gradient import policy_log_ratio
from oxrl_core.train.objective import kl_per_token, mismatch_weights
from oxrl_core.train.ranks import max_over_ranks, sum_over_ranks
from oxrl_core.types import Labeled, Metrics, Pairs, ReferencedPairs, Rollouts, ScoredPairs, TokenBatch, Values

if TYPE_CHECKING:
    from oxrl_core.engine.policy import PolicyEngine
    from oxrl_core.train.objective import Objective
    from oxrl_core.train.signals import Gathered


@dataclass
class Tally:
    """Sums and counts by metric; a metric is the sum over all ranks divided by the count over all ranks."""

    loss: float = 0.0
    num_tokens: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)
    gap_max: float = 0.0
    first_bad: str = ""  # where the loss stopped being finite: the row of a micro-batch of this rank

    @torch.no_grad()
    def add(self, loss: Tensor, batch: TokenBatch, kept: Tensor, gathered: Gathered, objective: Objective) -> None:
        """Counts one micro-batch in; `kept` says which of its tokens, (B, T), or items, (B,), are trained on."""
        self.loss += float(loss)
        signals = gathered.signals
        self.num_tokens += batch.num_tokens
        self._coverage(batch)
        if isinstance(signals, Rollouts):
            self._rollouts(signals, objective)
        for values in (gathered.values, signals):
            if isinstance(values, Values):
                self._critic(values)
        if isinstance(signals, Pairs):
            self._pairs(signals, kept)
        if isinstance(signals, ScoredPairs):
            self._compared(signals.chosen_score[kept], signals.rejected_score[kept])
        if isinstance(signals, Labeled):
            self._labeled(signals, kept)

    def metrics(self, policy: PolicyEngine) -> Metrics:
        """The metrics of the step over all ranks; the loss is already a share of the whole."""
        # All ranks know all names: each saw at least a placeholder.
        names = sorted(self.sums)
        loss, num_tokens, *totals = sum_over_ranks(
            policy,
            [self.loss, self.num_tokens, *(self.sums[name] for name in names), *(self.counts[name] for name in names)],
        )
        metrics = {"loss": loss, "num_tokens": num_tokens}
        for name, total, count in zip(names, totals[: len(names)], totals[len(names) :], strict=True):
            if count:
                metrics[name] = total / count
        if "gap/mean" in metrics:
            metrics["gap/max"] = max_over_ranks(policy, self.gap_max)
        if "value/residual" in metrics:  # 1 - Var(return - value) / Var(return); a constant return explains nothing
            variance = metrics.pop("value/return_square") - metrics["value/return"] ** 2
            residual = metrics.pop("value/residual_square") - metrics.pop("value/residual") ** 2
            metrics["value/explained"] = 1 - residual / variance if variance > 1e-12 else 0.0
        return metrics

    def _mean(self, name: str, values: Tensor) -> None:
        self._share(name, float(values.sum()), values.numel())

    def _coverage(self, batch: TokenBatch) -> None:
        """The share of the tokens that are trained on, among those that could be: all but the first of an example."""
        possible = int(batch.attention_mask.sum()) - int(batch.segment_ids.amax(dim=1).sum())
        if int(batch.completion_mask.sum()):  # a placeholder has none
            self._share("mask/coverage", int(batch.completion_mask.sum()), possible)

    def _share(self, name: str, part: float, whole: float) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + part
        self.counts[name] = self.counts.get(name, 0.0) + whole

    def _rollouts(self, signals: Rollouts, objective: Objective) -> None:
        mask = signals.completion_mask
        assert signals.entropy is not None and signals.rollout_logprobs is not None
        self._mean("entropy", signals.entropy[mask])
        log_ratio = (signals.logprobs - signals.old_logprobs)[mask]
        low, high = objective.params.get("clip_low"), objective.params.get("clip_high")
        if low is not None and high is not None:
            level = objective.params.get("ratio", "token")
            ratio = policy_log_ratio(signals, level).exp().expand_as(mask)[mask]
            self._mean("ratio/clipped", ((ratio < 1 - low) | (ratio > 1 + high)).float())
        self._mean("kl/old", -log_ratio)
        if signals.ref_logprobs is not None:
            self._mean("kl/ref", kl_per_token(signals.logprobs, signals.ref_logprobs, "k3")[mask])
        gap = (signals.old_logprobs - signals.rollout_logprobs)[mask].abs()
        self._mean("gap/mean", gap)
        self.gap_max = max(self.gap_max, float(gap.max()) if gap.numel() else 0.0)
        weights = mismatch_weights(signals, objective)
        if weights is not None:
            self._mean("mismatch/weight", weights[mask])
            self._mean("mismatch/dropped", (weights[mask] == 0).float())

    def _critic(self, values: Values) -> None:
        mask = values.completion_mask
        returns, residual = values.returns[mask].double(), (values.returns - values.values)[mask].double()
        self._mean("value/mean", values.values[mask])
        self._mean("value/return", returns)
        self._mean("value/return_square", returns**2)
        self._mean("value/residual", residual)
        self._mean("value/residual_square", residual**2)

    def _pairs(self, pairs: Pairs, kept: Tensor) -> None:
        if isinstance(pairs, ReferencedPairs):
            self._compared(pairs.chosen_logratio[kept], pairs.rejected_logratio[kept])
        else:
            self._compared(pairs.chosen_mean[kept], pairs.rejected_mean[kept])

    def _compared(self, chosen: Tensor, rejected: Tensor) -> None:
        self._mean("preference/chosen", chosen)
        self._mean("preference/rejected", rejected)
        self._mean("preference/margin", chosen - rejected)
        # At the start policy and reference are the same: a tie is half right.
        self._mean("preference/accuracy", (chosen > rejected).float() + 0.5 * (chosen == rejected))

    def _labeled(self, labeled: Labeled, kept: Tensor) -> None:
        desirable = labeled.is_desirable & kept
        self._mean("preference/chosen", labeled.logratio[desirable])
        self._mean("preference/rejected", labeled.logratio[kept & ~labeled.is_desirable])
        self._mean("preference/mismatched", labeled.step_mismatched)
