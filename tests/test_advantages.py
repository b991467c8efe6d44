"""Advantages of groups and of tokens against arithmetic by hand and the identities that their papers claim."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from oxrl_core.advantages import (
    ADVANTAGES,
    discounted_returns,
    gae,
    group_centered,
    group_zscore,
    leave_one_out,
    whiten,
)
from oxrl_core.errors import ConfigError

groups = st.lists(st.floats(-10, 10), min_size=2, max_size=16)
seeds = st.integers(0, 2**31)
fractions = st.floats(0, 1)


def test_group_zscore_by_hand() -> None:
    # mean 0.5, unbiased variance (4 x 0.25) / 3, deviation 0.5773503
    assert group_zscore([1, 0, 0, 1]) == pytest.approx([0.865876, -0.865876, -0.865876, 0.865876], abs=1e-6)


def test_group_centered_by_hand() -> None:
    assert group_centered([1, 0, 0, 3]) == [0, -1, -1, 2]


def test_leave_one_out_by_hand() -> None:
    assert leave_one_out([1, 0, 0, 3]) == pytest.approx([0, -4 / 3, -4 / 3, 8 / 3])


@pytest.mark.parametrize("name", sorted(ADVANTAGES))
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, 1 / 3, -7.3])
@pytest.mark.parametrize("size", [2, 3, 7, 16])
def test_a_group_that_agrees_says_exactly_nothing(name: str, reward: float, size: int) -> None:
    assert ADVANTAGES[name]([reward] * size) == [0.0] * size


@given(groups)
def test_leave_one_out_is_the_centered_reward_times_g_over_g_minus_one(rewards: list[float]) -> None:
    factor = len(rewards) / (len(rewards) - 1)
    assert leave_one_out(rewards) == pytest.approx([factor * value for value in group_centered(rewards)], abs=1e-9)


@pytest.mark.parametrize("name", sorted(ADVANTAGES))
@given(rewards=groups, shift=st.floats(-5, 5))
def test_advantages_sum_to_zero_keep_the_order_and_ignore_a_shift(
    name: str, rewards: list[float], shift: float
) -> None:
    advantages = ADVANTAGES[name](rewards)
    assert math.fsum(advantages) == pytest.approx(0, abs=1e-7)
    best, worst = rewards.index(max(rewards)), rewards.index(min(rewards))
    assert advantages[best] == max(advantages)
    assert advantages[worst] == min(advantages)
    shifted = ADVANTAGES[name]([reward + shift for reward in rewards])
    assert shifted == pytest.approx(advantages, abs=1e-6)


@pytest.mark.parametrize("name", sorted(ADVANTAGES))
def test_a_completion_without_a_verdict_moves_nothing(name: str) -> None:
    with_error = ADVANTAGES[name]([1.0, math.nan, 0.0, 0.5])
    assert with_error[1] == 0.0
    assert [with_error[0], *with_error[2:]] == ADVANTAGES[name]([1.0, 0.0, 0.5])
    assert ADVANTAGES[name]([1.0, math.nan]) == [0.0, 0.0]
    assert ADVANTAGES[name]([math.nan, math.nan]) == [0.0, 0.0]


@pytest.mark.parametrize("name", sorted(ADVANTAGES))
@pytest.mark.parametrize("rewards", [[], [1.0]])
def test_a_group_of_one_is_refused(name: str, rewards: list[float]) -> None:
    with pytest.raises(ConfigError, match="nothing to compare") as caught:
        ADVANTAGES[name](rewards)
    assert caught.value.where == "rollout.group_size"


# ---- tokens ----------------------------------------------------------------------------------------------------------


def row(values: list[float]) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def random_step(seed: int, rows: int = 3, tokens: int = 8) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rewards, values, last values and a mask with holes."""
    generator = torch.Generator().manual_seed(seed)
    rewards, values = torch.randn((2, rows, tokens), generator=generator, dtype=torch.float64)
    mask = torch.rand((rows, tokens), generator=generator) < 0.6
    mask[:, 0] = True
    return rewards, values, torch.randn(rows, generator=generator, dtype=torch.float64), mask


def test_gae_by_hand() -> None:
    # delta_2 = 1 - 0.4 = 0.6; delta_1 = 0.5 x 0.4 - 0.2 = 0; delta_0 = 0.5 x 0.2 - 0.1 = 0; gamma lambda = 0.25
    advantages, returns = gae(
        row([0, 0, 1]), row([0.1, 0.2, 0.4]), torch.zeros(1), row([1, 1, 1]).bool(), gamma=0.5, gae_lambda=0.5
    )
    assert advantages[0].tolist() == pytest.approx([0.0375, 0.15, 0.6])
    assert returns[0].tolist() == pytest.approx([0.1375, 0.35, 1.0])


def test_a_completion_that_was_cut_off_is_worth_what_the_critic_expects_of_the_rest() -> None:
    advantages, returns = gae(
        torch.zeros(2, 2), torch.zeros(2, 2), torch.tensor([0.0, 2.0]), torch.ones(2, 2).bool(), gamma=1, gae_lambda=1
    )
    assert advantages.tolist() == [[0.0, 0.0], [2.0, 2.0]]
    assert returns.tolist() == [[0.0, 0.0], [2.0, 2.0]]


@given(seed=seeds)
def test_gae_without_a_critic_at_lambda_one_is_the_reward_to_go(seed: int) -> None:
    rewards, _, _, mask = random_step(seed)
    zeros = torch.zeros_like(rewards)
    advantages, returns = gae(rewards, zeros, zeros[:, 0], mask, gamma=1.0, gae_lambda=1.0)
    counted = rewards * mask
    reward_to_go = counted.flip(1).cumsum(1).flip(1) * mask
    assert torch.allclose(advantages, reward_to_go, atol=1e-12)
    assert torch.equal(returns, advantages)
    assert torch.allclose(discounted_returns(rewards, mask, gamma=1.0), reward_to_go, atol=1e-12)


@given(seed=seeds, gamma=fractions)
def test_gae_at_lambda_zero_is_the_error_of_one_step(seed: int, gamma: float) -> None:
    rewards, values, last, _ = random_step(seed)
    mask = torch.ones_like(rewards).bool()
    advantages, _ = gae(rewards, values, last, mask, gamma=gamma, gae_lambda=0.0)
    following = torch.cat([values[:, 1:], last[:, None]], dim=1)
    assert torch.allclose(advantages, rewards + gamma * following - values, atol=1e-12)


@given(seed=seeds, gamma=fractions, gae_lambda=fractions)
def test_observations_take_no_time(seed: int, gamma: float, gae_lambda: float) -> None:
    """Advantages are those of the row with its masked tokens cut out, whatever stood in them."""
    rewards, values, last, mask = random_step(seed)
    advantages, returns = gae(
        rewards.masked_fill(~mask, math.nan),
        values.masked_fill(~mask, math.inf),
        last,
        mask,
        gamma=gamma,
        gae_lambda=gae_lambda,
    )
    discounted = discounted_returns(rewards.masked_fill(~mask, math.nan), mask, gamma=gamma)
    for index, here in enumerate(mask):
        short_rewards, short_values = rewards[index, here][None], values[index, here][None]
        whole = torch.ones_like(short_rewards).bool()
        expected, expected_returns = gae(
            short_rewards, short_values, last[index : index + 1], whole, gamma=gamma, gae_lambda=gae_lambda
        )
        assert torch.equal(advantages[index, here], expected[0])
        assert torch.equal(returns[index, here], expected_returns[0])
        assert torch.equal(discounted[index, here], discounted_returns(short_rewards, whole, gamma=gamma)[0])
    for tensor in (advantages, returns, discounted):
        assert not tensor[~mask].any()


def test_discounted_returns_by_hand() -> None:
    # 1 + 0.5 x (0 + 0.5 x 4) = 2; the hole is not a step
    returns = discounted_returns(row([1, 9, 0, 4]), row([1, 0, 1, 1]).bool(), gamma=0.5)
    assert returns.tolist() == [[2.0, 0.0, 2.0, 4.0]]


def test_a_thousand_rewards_add_up_in_float32() -> None:
    rewards = torch.full((1, 10_000), 0.1)
    returns = discounted_returns(rewards, torch.ones_like(rewards).bool(), gamma=1.0)
    assert returns.dtype == torch.float32
    assert returns[0, 0].item() == pytest.approx(1000.0, rel=1e-7)


def test_whiten_by_hand() -> None:
    # of 1, 2, 3: mean 2, unbiased variance 1
    whitened = whiten(row([1, 50, 2, 3]), row([1, 0, 1, 1]).bool())
    assert whitened[0].tolist() == pytest.approx([-1.0, 0.0, 0.0, 1.0], abs=1e-7)


@given(seed=seeds, scale=st.floats(0.01, 100), shift=st.floats(-100, 100))
def test_whitened_values_have_mean_zero_and_variance_one_whatever_their_scale(
    seed: int, scale: float, shift: float
) -> None:
    values, _, _, mask = random_step(seed)
    whitened = whiten(scale * values + shift, mask)
    selected = whitened[mask]
    assert selected.mean().item() == pytest.approx(0, abs=1e-9)
    if len(selected) > 1:
        assert selected.var().item() == pytest.approx(1, abs=1e-3)
    assert not whitened[~mask].any()
    masked = whiten((scale * values + shift).masked_fill(~mask, math.nan), mask)
    assert torch.equal(masked, whitened)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.1, -7.3, 1 / 3, 0.0])
@pytest.mark.parametrize("size", [0, 1, 2, 7, 1000])
def test_values_that_agree_whiten_to_exactly_nothing(dtype: torch.dtype, value: float, size: int) -> None:
    mask = torch.arange(1001)[None] < size
    assert not whiten(torch.full((1, 1001), value, dtype=dtype), mask).any()
