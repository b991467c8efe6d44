"""SGRPO against arithmetic by hand (arXiv:1707.06347, eq. 7 and figure 1)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from oxrl_core.algorithms.policy_gradient import sgrpo
from oxrl_core.types import Rollouts


def one_token(ratio: float, advantage: float) -> Rollouts:
    """One real token of the given ratio and advantage."""
    return Rollouts(
        logprobs=torch.tensor([[math.log(ratio) - 1.0]], requires_grad=True),
        completion_mask=torch.tensor([[True]]),
        advantages=torch.tensor([[advantage]]),
        old_logprobs=torch.tensor([[-1.0]]),
    )


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "gradient"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.1, 2.0, -2.2, -2.2),
        (1.5, 2.0, -2.4, 0.0),  # the policy already moved far enough: clipped at 1.2
        (0.5, 2.0, -1.0, -1.0),  # it moved the wrong way: not clipped, so that it can come back
        (1.5, -2.0, 3.0, 3.0),
        (0.5, -2.0, 1.6, 0.0),  # clipped at 0.8
        (1.5, 0.0, 0.0, 0.0),
    ],
)
def test_the_surrogate_and_its_gradient_worked_by_hand(
    ratio: float, advantage: float, value: float, gradient: float
) -> None:
    rollouts = one_token(ratio, advantage)
    loss = sgrpo(rollouts)
    loss.sum().backward()
    assert loss.item() == pytest.approx(value, rel=1e-5, abs=1e-7)
    assert rollouts.logprobs.grad is not None
    assert rollouts.logprobs.grad.item() == pytest.approx(gradient, rel=1e-5, abs=1e-7)


def test_the_bounds_are_set_apart() -> None:
    assert sgrpo(one_token(1.5, 1.0), clip_low=0.0, clip_high=0.28).item() == pytest.approx(-1.28)
    assert sgrpo(one_token(0.5, -1.0), clip_low=0.3, clip_high=0.0).item() == pytest.approx(0.7)


def test_at_ratio_one_the_gradient_is_that_of_reinforce() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn((4, 6, 11), generator=generator, dtype=torch.float64, requires_grad=True)
    actions = torch.randint(0, 11, (4, 6), generator=generator)
    advantages = torch.randn((4, 6), generator=generator, dtype=torch.float64)
    mask = torch.rand((4, 6), generator=generator) > 0.3

    def gradient_of(loss: Tensor) -> Tensor:
        return torch.autograd.grad(loss, logits)[0]

    logprobs = logits.log_softmax(-1).gather(-1, actions[..., None])[..., 0]
    reinforce = gradient_of(-(advantages * logprobs)[mask].sum())
    logprobs = logits.log_softmax(-1).gather(-1, actions[..., None])[..., 0]
    rollouts = Rollouts(
        logprobs=logprobs, completion_mask=mask, advantages=advantages, old_logprobs=logprobs.detach().clone()
    )
    assert torch.allclose(gradient_of(sgrpo(rollouts)[mask].sum()), reinforce, atol=1e-12)


def test_the_advantage_weighs_on_every_token_of_the_completion() -> None:
    rollouts = Rollouts(
        logprobs=torch.full((1, 4), -1.0, requires_grad=True),
        completion_mask=torch.tensor([[False, True, True, True]]),
        advantages=torch.tensor([[0.0, 0.5, 0.5, 0.5]]),
        old_logprobs=torch.full((1, 4), -1.0),
    )
    sgrpo(rollouts).sum().backward()
    assert rollouts.logprobs.grad is not None
    assert rollouts.logprobs.grad.tolist() == [[0.0, -0.5, -0.5, -0.5]]
