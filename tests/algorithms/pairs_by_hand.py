"""Pairs of given log-ratios, for losses whose values can be worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from oxrl_core.algorithms.preference import dpo
from oxrl_core.types import ReferencedPairs, StepPairs

REFERENCE = -3.0  # the log-prob of every completion of `step_pairs` under the reference
Loss = Callable[..., Tensor]


def step_pairs(
    chosen: list[float], rejected: list[float], margins: list[float] | None = None, dtype: torch.dtype = torch.float64
) -> StepPairs:
    """Pairs of one-token completions with these log-ratios, a whole step of them; column 0 is the prompt's."""
    mask = torch.tensor([[False, True]]).expand(len(chosen), 2)
    reference = torch.full((len(chosen),), REFERENCE, dtype=dtype)

    def row(logratios: list[float]) -> Tensor:
        logprobs = torch.zeros((len(logratios), 2), dtype=dtype)
        logprobs[:, 1] = torch.tensor(logratios, dtype=dtype) + REFERENCE
        return logprobs.requires_grad_()

    made = {"chosen_logprobs": row(chosen), "rejected_logprobs": row(rejected)}
    return StepPairs(
        **made,
        chosen_mask=mask,
        rejected_mask=mask,
        margins=torch.tensor(margins or [1.0] * len(chosen), dtype=dtype),
        chosen_ref=reference,
        rejected_ref=reference,
        index=torch.arange(len(chosen)),
        step_chosen_logratio=made["chosen_logprobs"].detach().sum(1) - reference,
        step_rejected_logratio=made["rejected_logprobs"].detach().sum(1) - reference,
        running={},
    )


def one(loss: Loss, chosen: float, rejected: float, margin: float = 0.0, **params: Any) -> tuple[float, float, float]:
    """Value of a pair with these log-ratios, and its derivatives by the chosen and the rejected log-prob."""
    pairs = step_pairs([chosen], [rejected], [margin])
    value = loss(pairs, **params)
    slopes = torch.autograd.grad(value.sum(), (pairs.chosen_logprobs, pairs.rejected_logprobs), allow_unused=True)
    return (value.item(), *(0.0 if slope is None else slope[0, 1].item() for slope in slopes))


def completions(
    chosen: list[float], rejected: list[float], chosen_ref: float = -2.0, rejected_ref: float = -2.0
) -> ReferencedPairs:
    """One pair of completions of several tokens, with a prompt column before and padding after the shorter one."""
    width = 1 + max(len(chosen), len(rejected))

    def row(logprobs: list[float]) -> tuple[Tensor, Tensor]:
        said = torch.zeros((1, width), dtype=torch.float64)
        said[0, 1 : 1 + len(logprobs)] = torch.tensor(logprobs, dtype=torch.float64)
        return said.requires_grad_(), (torch.arange(width) > 0)[None] & (torch.arange(width) <= len(logprobs))

    (chosen_logprobs, chosen_mask), (rejected_logprobs, rejected_mask) = row(chosen), row(rejected)
    return ReferencedPairs(
        chosen_logprobs=chosen_logprobs,
        rejected_logprobs=rejected_logprobs,
        chosen_mask=chosen_mask,
        rejected_mask=rejected_mask,
        margins=torch.zeros(1, dtype=torch.float64),
        chosen_ref=torch.tensor([chosen_ref], dtype=torch.float64),
        rejected_ref=torch.tensor([rejected_ref], dtype=torch.float64),
    )


def is_dpo(loss: Loss, beta: float = 0.1, **params: Any) -> None:
    """Asserts value and gradient of DPO on a grid of log-ratios."""
    for chosen in (-30.0, -1.0, 0.0, 0.5, 30.0):
        for rejected in (-30.0, -0.5, 0.0, 1.0, 30.0):
            assert one(loss, chosen, rejected, **params) == pytest.approx(one(dpo, chosen, rejected, beta=beta))
