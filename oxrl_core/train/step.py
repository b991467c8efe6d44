"""One update: any loss becomes a gradient here, and nowhere else is `backward()` called.

    signals = gather_signals(policy, objective, batch)  # what the loss may look at
    values  = algorithm.loss(signals, **params)         # (B, T) per token or (B,) per pair, unreduced
    policy.backward(weighted sum of values / num_items) # num_items: of the WHOLE step, all ranks
    policy.step()

A mean per micro-batch or per rank would weigh tokens by the company they keep; dividing by the items of the whole step
makes the gradient independent of the split (tests/train/test_step.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from oxrl_core.algorithms.critic import value_loss
from oxrl_core.errors import ConfigError, NumericsError
from oxrl_core.train.objective import (
    Objective,
    count_items,
    mismatch_weights,
    regularizers,
    rows_with_tokens,
    token_weights,
)
from oxrl_core.train.ranks import max_over_ranks, sum_over_ranks
from oxrl_core.train.signals import Gathered, StepView, gather_signals, look_ahead
from oxrl_core.train.tally import Tally
from oxrl_core.types import LabeledBatch, Metrics, PairBatch, RolloutBatch, Rollouts, TokenBatch

if TYPE_CHECKING:
    from oxrl_core.engine.policy import PolicyEngine


def train_step(policy: PolicyEngine, objective: Objective, batches: Sequence[TokenBatch]) -> Metrics:
    """The metrics of one optimizer update on the micro-batches of this rank; every rank must call it.

    Ranks may hold different numbers of micro-batches: the shorter ones go on with an empty one, so that the
    collectives of sharded weights meet. A step without a single item to train on changes nothing and says `skipped`.
    """
    tally = _go_through(policy, objective, batches, learns=True)
    if tally is None:
        return {"skipped": 1.0}
    metrics = tally.metrics(policy)
    if not math.isfinite(metrics["loss"]):
        raise NumericsError(
            f"the loss of {objective.algorithm.name} is {metrics['loss']}",
            where=tally.first_bad,
            next_step="look at the last recorded rollouts or rows; lower train.lr, or use precision float32",
        )
    metrics.update(policy.step())
    return metrics


def evaluate_step(policy: PolicyEngine, objective: Objective, batches: Sequence[TokenBatch]) -> Metrics:
    """The metrics that train_step would give, without gradient or update; every rank must call it."""
    with policy.no_grad():
        tally = _go_through(policy, objective, batches, learns=False)
    return {} if tally is None else tally.metrics(policy)


def _go_through(
    policy: PolicyEngine, objective: Objective, batches: Sequence[TokenBatch], *, learns: bool
) -> Tally | None:
    """The sums of a step, its gradient accumulated where it learns; None where there is nothing to look at."""
    num_items = sum_over_ranks(policy, [sum(count_items(batch, objective) for batch in batches)])[0]
    if num_items == 0:
        return None
    num_rounds = int(max_over_ranks(policy, len(batches)))
    whole = [*batches, *(placeholder(batches, objective) for _ in range(num_rounds - len(batches)))]
    view = look_ahead(policy, objective, whole, learns=learns)
    tally = Tally()
    for index, batch in enumerate(whole):
        values, gathered = loss_values(policy, objective, batch, view, index)
        # Select before weighing: a non-finite value in a masked column would survive a product with 0.
        kept, weights = (where.to(values.device) for where in items_of(batch, objective))
        loss = (values[kept] * weights[kept]).sum() / num_items
        tally.add(loss, batch, kept, gathered, objective)
        if not tally.first_bad and not math.isfinite(tally.loss):
            tally.first_bad = f"micro-batch {index}, row {first_bad_row(values, kept)}"
        if learns:
            _require_gradient(loss, objective)
            policy.backward(loss, last=index == num_rounds - 1)
    return tally


def loss_values(
    policy: PolicyEngine, objective: Objective, batch: TokenBatch, view: StepView | None, index: int
) -> tuple[Tensor, Gathered]:
    """The loss of each token (B, T) or item (B,) with its corrections and regularizers, and the signals behind it."""
    loss = partial(objective.algorithm.loss, **objective.params)
    if objective.algorithm.signals == "Distributions":
        # Whole distributions would fill the memory: the policy calls the loss on chunks of the tokens.
        return policy.distill(batch, loss), Gathered(None)
    gathered = gather_signals(policy, objective, batch, view, index)
    values = loss(gathered.signals)
    if isinstance(gathered.signals, Rollouts):
        weights = mismatch_weights(gathered.signals, objective)
        if weights is not None:
            values = values * weights
        values = values + regularizers(gathered.signals, objective)
    if gathered.values is not None:
        values = values + objective.value_coef * value_loss(gathered.values, value_clip=objective.value_clip)
    return values, gathered


def _require_gradient(loss: Tensor, objective: Objective) -> None:
    """Refuses a loss that no weight has a part in: autograd and DeepSpeed say that in words of their own, or not."""
    if not loss.requires_grad:
        raise ConfigError(
            f"the loss of {objective.algorithm.name} has no gradient: no weight has a part in it",
            "algorithm.name",
            "make it of the signals' tensors themselves: nothing detached, as numbers, or within torch.no_grad()",
        )


def first_bad_row(values: Tensor, kept: Tensor) -> int:
    """The first row, (B, T) or (B,), with a value that is trained on and not finite; -1 where there is none."""
    bad = (kept & ~values.isfinite()).flatten(1).any(dim=1) if values.ndim > 1 else kept & ~values.isfinite()
    return int(bad.int().argmax()) if bad.any() else -1


def items_of(batch: TokenBatch, objective: Objective) -> tuple[Tensor, Tensor]:
    """Which tokens (B, T) or items (B,) of a batch are trained on, and the weight of each in the numerator."""
    if isinstance(batch, PairBatch | LabeledBatch):
        kept = rows_with_tokens(batch)
        return kept, kept.float()
    return batch.completion_mask, token_weights(batch, objective)


def placeholder(batches: Sequence[TokenBatch], objective: Objective) -> TokenBatch:
    """A batch of one short row, or one pair of such rows, with nothing to train on."""
    signals = objective.algorithm.signals
    num_rows = 2 if "Pairs" in signals or signals == "Labeled" else 1
    ids = batches[0].input_ids[:1, :2] if batches else torch.zeros(1, 2, dtype=torch.long)
    ids = ids.repeat(num_rows, 1)
    rows = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids, dtype=torch.bool),
        "position_ids": torch.arange(ids.shape[1]).repeat(num_rows, 1),
        "completion_mask": torch.zeros_like(ids, dtype=torch.bool),
        "segment_ids": torch.ones_like(ids),
    }
    if "Pairs" in signals:
        return PairBatch(**rows, margins=torch.zeros(1))
    if signals == "Labeled":
        return LabeledBatch(**rows, is_desirable=torch.zeros(1, dtype=torch.bool))
    if signals not in ("Rollouts", "Values"):
        return TokenBatch(**rows)
    zeros = torch.zeros(ids.shape, dtype=torch.float32)
    return RolloutBatch(**rows, advantages=zeros, rollout_logprobs=zeros, old_values=zeros, returns=zeros)
