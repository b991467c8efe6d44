"""Random signals of every type that a loss may see: `make_signals(algorithm)`, and what may be done to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from oxrl_core.algorithms.base import Algorithm
from oxrl_core.types import (
    Distributions,
    Labeled,
    Pairs,
    ReferencedPairs,
    Rollouts,
    ScoredPairs,
    StepPairs,
    Tokens,
)

ROWS = 4
TOKENS = 7
VOCABULARY = 11
STEP_ITEMS = 9  # of the whole step; the signals are a micro-batch of it
PLACES = torch.tensor([7, 2, 5, 0])  # where its rows stand in the step
MASK = torch.tensor(
    [
        [0, 1, 1, 1, 1, 1, 1],
        [0, 0, 1, 0, 1, 1, 0],  # a hole
        [0, 0, 0, 1, 0, 0, 0],  # a completion of one token
        [0, 1, 1, 1, 0, 0, 0],
    ],
    dtype=torch.bool,
)
WITH_GRADIENT = (
    "logprobs",
    "logits",
    "chosen_logprobs",
    "rejected_logprobs",
    "logratio",
    "chosen_score",
    "rejected_score",
)
PER_TOKEN = ("Tokens", "Rollouts")  # losses that return (B, T)


def make_signals(algorithm: Algorithm, *, seed: int = 0, mask: Tensor = MASK) -> Any:
    """Signals as the trainer gives them to this algorithm, with its running numbers after a first step."""
    generator = torch.Generator().manual_seed(seed)
    signals = MAKERS[algorithm.signals](generator, mask)
    if algorithm.running is not None:
        signals = replace(signals, running=dict(algorithm.running(signals, {}, algorithm.params)))
    return with_gradient(signals)


def with_gradient(signals: Any) -> Any:
    """The same signals, those that come from the model as leaves that collect a gradient."""
    leaves = {
        name: value.detach().clone().requires_grad_()
        for name, value in tensors_of(signals).items()
        if name in WITH_GRADIENT
    }
    return replace(signals, **leaves)


def tensors_of(signals: Any) -> dict[str, Tensor]:
    """Its fields that are tensors, by name."""
    found = {field.name: getattr(signals, field.name) for field in fields(signals)}
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def leaves_of(signals: Any) -> dict[str, Tensor]:
    """Its fields that collect a gradient, by name."""
    return {name: value for name, value in tensors_of(signals).items() if value.requires_grad}


def gradients(signals: Any, values: Tensor) -> dict[str, Tensor]:
    """The gradient of the sum of the values at every leaf; of a token's loss, at trained tokens only."""
    if values.ndim == 2:
        values = values[signals.completion_mask]
    leaves = leaves_of(signals)
    found = torch.autograd.grad(values.sum(), list(leaves.values()), allow_unused=True)
    zeros = (torch.zeros_like(leaf) for leaf in leaves.values())
    return {
        name: zero if gradient is None else gradient for name, gradient, zero in zip(leaves, found, zeros, strict=True)
    }


def select(signals: Any, rows: Tensor) -> Any:
    """The signals of these rows, in this order; what belongs to the whole step stays."""
    chosen = {name: value[rows] for name, value in tensors_of(signals).items() if not name.startswith("step_")}
    return with_gradient(replace(signals, **chosen))


def pad(signals: Any, columns: int, filler: float) -> Any:
    """The signals with masked columns behind: `filler` where a loss must not look, 0 where pairs promise it."""
    padded: dict[str, Tensor] = {}
    for name, value in tensors_of(signals).items():
        if value.ndim == 2 and name not in ("logits", "teacher_logits"):
            fill = 0 if value.dtype == torch.bool or isinstance(signals, Pairs) else filler
            padded[name] = torch.cat([value.detach(), value.new_full((len(value), columns), fill)], dim=1)
    return with_gradient(replace(signals, **padded))


def _tokens(generator: torch.Generator, mask: Tensor) -> Tokens:
    logprobs = -2 * torch.rand(mask.shape, generator=generator)
    return Tokens(logprobs=logprobs, completion_mask=mask, entropy=torch.rand(mask.shape, generator=generator))


def _rollouts(generator: torch.Generator, mask: Tensor) -> Rollouts:
    tokens = _tokens(generator, mask)
    noise = [0.1 * torch.randn(mask.shape, generator=generator) for _ in range(3)]
    return Rollouts(
        **vars(tokens),
        advantages=torch.randn(mask.shape, generator=generator),
        old_logprobs=tokens.logprobs + noise[0],
        rollout_logprobs=tokens.logprobs + noise[1],
        ref_logprobs=tokens.logprobs + noise[2],
    )


def _distributions(generator: torch.Generator, mask: Tensor) -> Distributions:
    count = int(mask.sum())
    return Distributions(
        logits=torch.randn((count, VOCABULARY), generator=generator),
        teacher_logits=torch.randn((count, VOCABULARY), generator=generator),
        targets=torch.randint(0, VOCABULARY, (count,), generator=generator),
    )


def _pairs(generator: torch.Generator, mask: Tensor) -> Pairs:
    rejected_mask = mask.flip(0)
    return Pairs(
        chosen_logprobs=(-2 * torch.rand(mask.shape, generator=generator)).masked_fill(~mask, 0.0),
        rejected_logprobs=(-2 * torch.rand(mask.shape, generator=generator)).masked_fill(~rejected_mask, 0.0),
        chosen_mask=mask,
        rejected_mask=rejected_mask,
        margins=torch.rand(len(mask), generator=generator),
    )


def _referenced_pairs(generator: torch.Generator, mask: Tensor) -> ReferencedPairs:
    pairs = _pairs(generator, mask)
    return ReferencedPairs(
        **vars(pairs),
        chosen_ref=pairs.chosen + torch.randn(len(mask), generator=generator),
        rejected_ref=pairs.rejected + torch.randn(len(mask), generator=generator),
    )


def _step_pairs(generator: torch.Generator, mask: Tensor) -> StepPairs:
    pairs = _referenced_pairs(generator, mask)
    chosen, rejected = torch.randn((2, STEP_ITEMS), generator=generator)
    return StepPairs(
        **vars(pairs),
        index=PLACES,
        step_chosen_logratio=chosen.index_copy(0, PLACES, pairs.chosen_logratio),
        step_rejected_logratio=rejected.index_copy(0, PLACES, pairs.rejected_logratio),
        running={},
    )


def _labeled(generator: torch.Generator, mask: Tensor) -> Labeled:
    logratio, mismatched = torch.randn((2, STEP_ITEMS), generator=generator)
    is_desirable = torch.arange(STEP_ITEMS) % 2 == 0
    return Labeled(
        logratio=logratio[PLACES],
        is_desirable=is_desirable[PLACES],
        step_logratio=logratio,
        step_is_desirable=is_desirable,
        step_mismatched=mismatched,
        running={},
    )


def _scored_pairs(generator: torch.Generator, mask: Tensor) -> ScoredPairs:
    chosen, rejected, margins = torch.randn((3, len(mask)), generator=generator)
    return ScoredPairs(chosen_score=chosen, rejected_score=rejected, margins=margins.abs())


MAKERS: dict[str, Callable[[torch.Generator, Tensor], Any]] = {
    "Tokens": _tokens,
    "Rollouts": _rollouts,
    "Distributions": _distributions,
    "Pairs": _pairs,
    "ReferencedPairs": _referenced_pairs,
    "StepPairs": _step_pairs,
    "Labeled": _labeled,
    "ScoredPairs": _scored_pairs,
}
