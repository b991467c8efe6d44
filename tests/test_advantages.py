"""Group advantages against arithmetic by hand and the identities that their papers claim."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxrl_core.advantages import ADVANTAGES, group_centered, group_zscore, leave_one_out
from oxrl_core.errors import ConfigError

groups = st.lists(st.floats(-10, 10), min_size=2, max_size=16)


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
