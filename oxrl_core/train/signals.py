"""What a loss may look at, gathered from the policy: log-probs, values, scores, and where it compares, the whole step.

The loss says by the type of its first argument which of `GATHERERS` runs. Rows of pairs come chosen first; rows of
labeled examples come with their mismatched twins behind them, which are measured but never trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from oxrl_core.train.objective import rows_with_tokens
from oxrl_core.train.ranks import gather_over_ranks
from oxrl_core.types import (
    Labeled,
    LabeledBatch,
    PairBatch,
    Pairs,
    ReferencedPairs,
    RolloutBatch,
    Rollouts,
    ScoredPairs,
    StepPairs,
    TokenBatch,
    Tokens,
    Values,
)

if TYPE_CHECKING:
    from oxrl_core.engine.policy import PolicyEngine
    from oxrl_core.train.objective import Objective

LOOKS_AHEAD = ("StepPairs", "Labeled")  # losses that compare an item with all the others of the step


@dataclass
class StepView:
    """What the losses of a step may know of all its items, on all ranks, before the first gradient."""

    first: Tensor  # (N,) float32: log-ratios of the chosen completions, or of the labeled ones
    second: Tensor  # (N,) float32: of the rejected completions, or of the mismatched ones
    is_desirable: Tensor  # (N,) bool, of labeled examples
    starts: list[int]  # of this rank's micro-batches among the N
    running: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Gathered:
    """The signals of one micro-batch; `values` beside them where the policy has a value head of its own."""

    signals: Any
    values: Values | None = None


def gather_signals(
    policy: PolicyEngine, objective: Objective, batch: TokenBatch, view: StepView | None = None, index: int = 0
) -> Gathered:
    """What the loss of this micro-batch (the index-th of its rank) may look at."""
    return GATHERERS[objective.algorithm.signals](policy, objective, batch, view, index)


def look_ahead(
    policy: PolicyEngine, objective: Objective, batches: Sequence[TokenBatch], *, learns: bool
) -> StepView | None:
    """The log-ratios of the whole step, for losses that compare across it; None for the others. Every rank calls it.

    What a loss compares with must not depend on which items share a micro-batch or a rank. Only a step that learns
    moves what the loss remembers.
    """
    if objective.algorithm.signals not in LOOKS_AHEAD:
        return None
    mine: list[tuple[list[float], list[float], list[bool]]] = []
    with policy.no_grad():
        for batch in batches:
            assert isinstance(batch, PairBatch | LabeledBatch)
            kept = rows_with_tokens(batch).to(policy.device)
            first, second = (sums_of(policy, batch) - reference_sums(policy, batch)).chunk(2)
            labels = batch.is_desirable.to(policy.device)[kept].tolist() if isinstance(batch, LabeledBatch) else []
            mine.append((first[kept].tolist(), second[kept].tolist(), labels))
    everyone = gather_over_ranks(policy, mine)
    before = sum(len(part[0]) for rank in everyone[: policy.rank] for part in rank)
    starts = [before + sum(len(part[0]) for part in mine[:index]) for index in range(len(batches))]
    parts = [part for rank in everyone for part in rank]
    labels = [label for part in parts for label in part[2]]
    view = StepView(
        first=torch.tensor([value for part in parts for value in part[0]], device=policy.device),
        second=torch.tensor([value for part in parts for value in part[1]], device=policy.device),
        is_desirable=torch.tensor(labels, dtype=torch.bool, device=policy.device),
        starts=starts,
    )
    running = objective.algorithm.running
    if running is not None:
        view.running = dict(running(_only_the_step(view, objective), dict(policy.running), objective.params))
        if learns:
            policy.running = view.running
    return view


def sums_of(policy: PolicyEngine, batch: TokenBatch) -> Tensor:
    """(rows,) float32 log-prob of each row's completion: the sum over its tokens."""
    logprobs, _ = policy.logprobs(batch, 1.0)
    return logprobs.masked_fill(~batch.completion_mask.to(logprobs.device), 0.0).sum(1)


def reference_sums(policy: PolicyEngine, batch: PairBatch | LabeledBatch) -> Tensor:
    """(rows,) float32 log-prob of each row's completion under the reference, measured once and kept on the batch."""
    if batch.ref_logprobs is None:
        logprobs = policy.reference_logprobs(batch, 1.0)
        batch.ref_logprobs = logprobs.masked_fill(~batch.completion_mask.to(logprobs.device), 0.0).sum(1)
    return batch.ref_logprobs.to(policy.device)


def _tokens(policy: PolicyEngine, objective: Objective, batch: TokenBatch, *_: Any) -> Gathered:
    logprobs, _ = policy.logprobs(batch, objective.temperature)
    return Gathered(Tokens(logprobs=logprobs, completion_mask=batch.completion_mask.to(logprobs.device)))


def _rollouts(policy: PolicyEngine, objective: Objective, batch: TokenBatch, *_: Any) -> Gathered:
    assert isinstance(batch, RolloutBatch)
    values = None
    if objective.value_coef > 0:
        logprobs, entropy, states = policy.logprobs_and_values(batch, objective.temperature, with_entropy=True)
        values = _values_of(states, batch)
    else:
        logprobs, entropy = policy.logprobs(batch, objective.temperature, with_entropy=True)
    if batch.old_logprobs is None:
        # Each rollout is trained on once: the old policy is the present one, and no second forward pass is needed.
        # Kept on the batch for the recorder.
        batch.old_logprobs = logprobs.detach()
    reference = batch.ref_logprobs
    if reference is None and objective.kl_coef > 0:
        reference = policy.reference_logprobs(batch, objective.temperature)
    signals = Rollouts(
        logprobs=logprobs,
        completion_mask=batch.completion_mask.to(logprobs.device),
        entropy=entropy,
        advantages=batch.advantages.to(logprobs.device),
        old_logprobs=batch.old_logprobs.to(logprobs.device),
        rollout_logprobs=batch.rollout_logprobs.to(logprobs.device),
        ref_logprobs=None if reference is None else reference.to(logprobs.device),
    )
    return Gathered(signals, values)


def _values(policy: PolicyEngine, objective: Objective, batch: TokenBatch, *_: Any) -> Gathered:
    assert isinstance(batch, RolloutBatch)
    return Gathered(_values_of(policy.values(batch), batch))


def _values_of(values: Tensor, batch: RolloutBatch) -> Values:
    assert batch.old_values is not None and batch.returns is not None, "rollouts of a critic carry values and returns"
    return Values(
        values=values,
        old_values=batch.old_values.to(values.device),
        returns=batch.returns.to(values.device),
        completion_mask=batch.completion_mask.to(values.device),
    )


def _pair_tensors(policy: PolicyEngine, batch: TokenBatch) -> dict[str, Tensor]:
    assert isinstance(batch, PairBatch)
    logprobs, _ = policy.logprobs(batch, 1.0)
    mask = batch.completion_mask.to(logprobs.device)
    chosen, rejected = logprobs.masked_fill(~mask, 0.0).chunk(2)
    chosen_mask, rejected_mask = mask.chunk(2)
    return {
        "chosen_logprobs": chosen,
        "rejected_logprobs": rejected,
        "chosen_mask": chosen_mask,
        "rejected_mask": rejected_mask,
        "margins": batch.margins.to(logprobs.device),
    }


def _pairs(policy: PolicyEngine, objective: Objective, batch: TokenBatch, *_: Any) -> Gathered:
    return Gathered(Pairs(**_pair_tensors(policy, batch)))


def _referenced(policy: PolicyEngine, objective: Objective, batch: TokenBatch, *_: Any) -> Gathered:
    assert isinstance(batch, PairBatch)
    chosen_ref, rejected_ref = reference_sums(policy, batch).chunk(2)
    tensors = _pair_tensors(policy, batch)
    return Gathered(ReferencedPairs(**tensors, chosen_ref=chosen_ref, rejected_ref=rejected_ref))


def _step_pairs(
    policy: PolicyEngine, objective: Objective, batch: TokenBatch, view: StepView | None, index: int
) -> Gathered:
    assert view is not None and isinstance(batch, PairBatch)
    pairs = _referenced(policy, objective, batch).signals
    # Where each pair stands among those of the step; one without tokens stands nowhere and is not trained on.
    place = view.starts[index] + rows_with_tokens(batch).cumsum(0) - 1
    return Gathered(
        StepPairs(
            **vars(pairs),
            index=place.clamp(0, len(view.first) - 1).to(policy.device),
            step_chosen_logratio=view.first,
            step_rejected_logratio=view.second,
            running=view.running,
        )
    )


def _labeled(
    policy: PolicyEngine, objective: Objective, batch: TokenBatch, view: StepView | None, index: int
) -> Gathered:
    assert view is not None and isinstance(batch, LabeledBatch)
    reference, _ = reference_sums(policy, batch).chunk(2)
    return Gathered(
        Labeled(
            logratio=sums_of(policy, first_half(batch)) - reference,
            is_desirable=batch.is_desirable.to(policy.device),
            step_logratio=view.first,
            step_is_desirable=view.is_desirable,
            step_mismatched=view.second,
            running=view.running,
        )
    )


def _scored(policy: PolicyEngine, objective: Objective, batch: TokenBatch, *_: Any) -> Gathered:
    assert isinstance(batch, PairBatch)
    chosen, rejected = policy.scores(batch).chunk(2)
    return Gathered(ScoredPairs(chosen_score=chosen, rejected_score=rejected, margins=batch.margins.to(chosen.device)))


def first_half(batch: LabeledBatch) -> TokenBatch:
    """The rows that are trained on, without their mismatched twins."""
    half = len(batch.is_desirable)
    names = ("input_ids", "attention_mask", "position_ids", "completion_mask", "segment_ids")
    media = batch.media_inputs
    if media is not None:  # a twin has the prompt of its example, and so the same media once more
        media = {name: tensor.chunk(2)[0] for name, tensor in media.items()}
    return TokenBatch(**{name: getattr(batch, name)[:half] for name in names}, media_inputs=media)


def _only_the_step(view: StepView, objective: Objective) -> StepPairs | Labeled:
    """The signals of no item, which know the whole step: what a loss's `running` function sees."""
    none = torch.zeros(0, device=view.first.device)
    if objective.algorithm.signals == "Labeled":
        return Labeled(
            logratio=none,
            is_desirable=none.bool(),
            step_logratio=view.first,
            step_is_desirable=view.is_desirable,
            step_mismatched=view.second,
            running={},
        )
    rows = torch.zeros(0, 1, device=view.first.device)
    return StepPairs(
        chosen_logprobs=rows,
        rejected_logprobs=rows,
        chosen_mask=rows.bool(),
        rejected_mask=rows.bool(),
        margins=none,
        chosen_ref=none,
        rejected_ref=none,
        index=none.long(),
        step_chosen_logratio=view.first,
        step_rejected_logratio=view.second,
        running={},
    )


GATHERERS: dict[str, Callable[..., Gathered]] = {
    "Tokens": _tokens,
    "Rollouts": _rollouts,
    "Values": _values,
    "Pairs": _pairs,
    "ReferencedPairs": _referenced,
    "StepPairs": _step_pairs,
    "Labeled": _labeled,
    "ScoredPairs": _scored,
}
