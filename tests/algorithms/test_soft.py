"""Losses that weigh instead of clipping, against arithmetic by hand and what their papers claim."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from oxrl_core.algorithms.soft import cispo, sapo, vespo
from oxrl_core.types import Rollouts


def tokens(ratios: list[float], advantage: float) -> Rollouts:
    """One row of tokens with the given ratios, each of log-prob -2 now."""
    logprobs = torch.full((1, len(ratios)), -2.0, dtype=torch.float64)
    return Rollouts(
        logprobs=logprobs.clone().requires_grad_(),
        completion_mask=torch.ones(1, len(ratios), dtype=torch.bool),
        advantages=torch.full((1, len(ratios)), advantage, dtype=torch.float64),
        old_logprobs=logprobs - torch.tensor([ratios], dtype=torch.float64).log(),
    )


def gradient_of(values: Tensor, rollouts: Rollouts) -> list[float]:
    return torch.autograd.grad(values.sum(), rollouts.logprobs)[0][0].tolist()


def test_cispo_by_hand() -> None:
    rollouts = tokens([0.5, 1.0, 3.0, 40.0], advantage=2.0)
    values = cispo(rollouts)
    # -min(ratio, 5) x A x logprob, the ratio held fixed
    assert values[0].tolist() == pytest.approx([2.0, 4.0, 12.0, 20.0])
    assert gradient_of(values, rollouts) == pytest.approx([-1.0, -2.0, -6.0, -10.0])


@given(ratios=st.lists(st.floats(0.01, 5.0), min_size=1, max_size=8), advantage=st.floats(-3, 3))
def test_below_the_cap_cispo_has_the_gradient_of_reinforce_with_importance_weights(
    ratios: list[float], advantage: float
) -> None:
    rollouts = tokens(ratios, advantage)
    # The gradient of -ratio A is -ratio A itself: d ratio / d logprob = ratio.
    unclipped = -(rollouts.logprobs - rollouts.old_logprobs).exp() * rollouts.advantages
    expected = gradient_of(unclipped, rollouts)
    assert gradient_of(cispo(rollouts), rollouts) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_a_capped_token_of_cispo_keeps_its_gradient() -> None:
    rollouts = tokens([100.0], advantage=1.0)
    assert gradient_of(cispo(rollouts, ratio_cap=1.28), rollouts) == pytest.approx([-1.28])


def test_the_floor_of_cispo_is_off_until_it_is_set() -> None:
    rollouts = tokens([0.1], advantage=1.0)
    assert gradient_of(cispo(rollouts), rollouts) == pytest.approx([-0.1])
    assert gradient_of(cispo(rollouts, ratio_floor=0.8), rollouts) == pytest.approx([-0.8])


def test_cispo_can_weigh_whole_completions() -> None:
    rollouts = tokens([2.0, 8.0], advantage=1.0)
    assert gradient_of(cispo(rollouts, ratio="sequence"), rollouts) == pytest.approx([-4.0, -4.0])


@pytest.mark.parametrize(("advantage", "tau"), [(1.0, 1.0), (-1.0, 1.05), (0.0, 1.05)])
def test_sapo_by_hand(advantage: float, tau: float) -> None:
    rollouts = tokens([1.0, 1.5], advantage)
    values = sapo(rollouts)
    gate = 1 / (1 + math.exp(-tau * 0.5))
    assert values[0].tolist() == pytest.approx([-advantage * 2 / tau, -advantage * gate * 4 / tau])
    # 4 sigma (1 - sigma) is 1 at ratio 1
    expected = [-advantage, -advantage * 1.5 * 4 * gate * (1 - gate)]
    assert gradient_of(values, rollouts) == pytest.approx(expected)


@given(ratio=st.floats(1.5, 30.0))
def test_sapo_forgets_bad_actions_faster_than_good_ones(ratio: float) -> None:
    good, bad = tokens([ratio], 1.0), tokens([ratio], -1.0)
    forward, backward = gradient_of(sapo(good), good)[0], gradient_of(sapo(bad), bad)[0]
    assert 0 < backward < -forward < ratio


def test_far_from_ratio_one_the_gradient_of_sapo_is_exact_in_float32() -> None:
    rollouts = Rollouts(
        logprobs=torch.tensor([[0.0]], requires_grad=True),
        completion_mask=torch.tensor([[True]]),
        advantages=torch.tensor([[1.0]]),
        old_logprobs=torch.tensor([[-math.log(20.0)]]),
    )
    # r x 4 e^-x / (1 + e^-x)^2 with x = r - 1 = 19
    expected = -20 * 4 * math.exp(-19) / (1 + math.exp(-19)) ** 2
    assert gradient_of(sapo(rollouts), rollouts) == pytest.approx([expected], rel=1e-4)


@pytest.mark.parametrize(("advantage", "power", "decay"), [(1.0, 2.0, 3.0), (-1.0, 3.0, 2.0)])
def test_vespo_by_hand(advantage: float, power: float, decay: float) -> None:
    rollouts = tokens([1.2, 1.5], advantage)  # the product is 1.8
    weight = 1.8**power * math.exp(decay * (1 - 1.8))
    values = vespo(rollouts)
    assert values[0].tolist() == pytest.approx([2.0 * weight * advantage] * 2)
    assert gradient_of(values, rollouts) == pytest.approx([-weight * advantage] * 2)


@given(product=st.floats(0.01, 50))
def test_a_completion_far_from_the_policy_counts_little_in_vespo(product: float) -> None:
    rollouts = tokens([product], 1.0)
    weight = -gradient_of(vespo(rollouts, positive_power=3.0, positive_decay=3.0), rollouts)[0]
    assert 0 <= weight <= 1 + 1e-9  # with equal power and decay its maximum is 1, on-policy
