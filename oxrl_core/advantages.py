"""Rewards become advantages: of one prompt's group of completions, or of every token of a step.

A group is a few dozen plain floats. A completion without a verdict (its reward is NaN: the reward raised or ran out of
time) says nothing about the policy: it is left out of the group's statistics and its advantage is 0.

Tokens are (B, T) tensors with a mask. What is masked inside a completion (an observation, the answer of a tool) is not
the policy's: it takes no time, so that what comes after it counts for the tokens before it as if it were not there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from oxrl_core.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

ZSCORE_EPSILON = 1e-4  # of TRL and most of the field; small beside the 0.1..0.5 of a 0/1 reward's deviation
WHITEN_EPSILON = 1e-8  # of a variance: TRL, verl and OpenRLHF


def group_centered(rewards_G: Sequence[float]) -> list[float]:
    """r - mean of the group (arXiv:2503.20783)."""
    return _over_judged(rewards_G, _centered)


def group_zscore(rewards_G: Sequence[float]) -> list[float]:
    """(r - mean) / (std + 1e-4) with the unbiased deviation of the group (arXiv:2402.03300)."""
    return _over_judged(rewards_G, _zscore)


def leave_one_out(rewards_G: Sequence[float]) -> list[float]:
    """r - mean of the other completions of the group (arXiv:2402.14740)."""
    return _over_judged(rewards_G, _left_out)


ADVANTAGES: dict[str, Callable[[Sequence[float]], list[float]]] = {
    "group_zscore": group_zscore,
    "group_centered": group_centered,
    "leave_one_out": leave_one_out,
}


def _centered(rewards: list[float]) -> list[float]:
    mean = math.fsum(rewards) / len(rewards)
    return [reward - mean for reward in rewards]


def _zscore(rewards: list[float]) -> list[float]:
    centered = _centered(rewards)
    deviation = math.sqrt(math.fsum(value * value for value in centered) / (len(rewards) - 1))
    return [value / (deviation + ZSCORE_EPSILON) for value in centered]


def _left_out(rewards: list[float]) -> list[float]:
    total = math.fsum(rewards)
    return [reward - (total - reward) / (len(rewards) - 1) for reward in rewards]


def _over_judged(rewards_G: Sequence[float], advantages_of: Callable[[list[float]], list[float]]) -> list[float]:
    """The advantages of the completions with a verdict, and 0 for the others."""
    if len(rewards_G) < 2:
        raise ConfigError(
            f"a group of {len(rewards_G)} has nothing to compare its rewards with",
            where="rollout.group_size",
            next_step="draw at least 2 completions of each prompt (rollout.group_size=8)",
        )
    judged = [index for index, reward in enumerate(rewards_G) if not math.isnan(reward)]
    rewards = [float(rewards_G[index]) for index in judged]
    advantages_G = [0.0] * len(rewards_G)
    # Equal rewards give exactly 0, not the rounding error of their mean divided by 1e-4.
    if len(rewards) >= 2 and min(rewards) != max(rewards):
        for index, advantage in zip(judged, advantages_of(rewards), strict=True):
            advantages_G[index] = advantage
    return advantages_G


def discounted_returns(rewards_BT: Tensor, mask_BT: Tensor, *, gamma: float) -> Tensor:
    """(B, T) the reward of each token plus gamma times the return of the next one; 0 outside the mask."""
    rewards = rewards_BT.masked_fill(~mask_BT, 0.0).double()  # the rounding of a thousand float32 additions adds up
    returns = rewards.new_zeros(rewards.shape)
    following = rewards.new_zeros(rewards.shape[0])
    for t in reversed(range(rewards.shape[1])):
        here = mask_BT[:, t]
        following = (rewards[:, t] + gamma * following).where(here, following)
        returns[:, t] = following.where(here, 0.0)
    return returns.to(rewards_BT.dtype)


def gae(
    rewards_BT: Tensor,
    values_BT: Tensor,
    last_values_B: Tensor,
    mask_BT: Tensor,
    *,
    gamma: float,
    gae_lambda: float,
) -> tuple[Tensor, Tensor]:
    """Generalised advantages (arXiv:1506.02438, eq. 16) and the returns for the critic to predict, both (B, T).

    `last_values_B` is the value of the state after the last token: 0 where the completion ended, the critic's value
    where it was cut off. Returns are advantages plus values, so whiten the advantages afterwards. 0 outside the mask.
    """
    rewards = rewards_BT.masked_fill(~mask_BT, 0.0).double()
    values = values_BT.masked_fill(~mask_BT, 0.0).double()
    advantages = rewards.new_zeros(rewards.shape)
    next_values = last_values_B.double()
    following = rewards.new_zeros(rewards.shape[0])
    for t in reversed(range(rewards.shape[1])):
        here = mask_BT[:, t]
        surprise = rewards[:, t] + gamma * next_values - values[:, t]
        following = (surprise + gamma * gae_lambda * following).where(here, following)
        next_values = values[:, t].where(here, next_values)
        advantages[:, t] = following.where(here, 0.0)
    returns = advantages + values
    return advantages.to(rewards_BT.dtype), returns.to(values_BT.dtype)


def whiten(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """(x - mean) / sqrt(variance + 1e-8) over all masked items, with the unbiased variance; 0 outside the mask.

    Give it the whole step: the mean of a micro-batch is another baseline. Fewer than two items, or items that are all
    equal, say nothing: exactly 0.
    """
    selected = values_BT[mask_BT].double()  # a float32 sum over a million tokens would lose the small differences
    if selected.numel() < 2 or bool(selected.min() == selected.max()):
        return values_BT.new_zeros(values_BT.shape)
    whitened = (values_BT.double() - selected.mean()) / (selected.var() + WHITEN_EPSILON).sqrt()
    return whitened.masked_fill(~mask_BT, 0.0).to(values_BT.dtype)
