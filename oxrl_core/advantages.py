"""Rewards of one prompt's group of completions become advantages. Plain floats: a group is a few dozen numbers.

A completion without a verdict (its reward is NaN: the reward raised or ran out of time) says nothing about the policy:
it is left out of the group's statistics and its advantage is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from oxrl_core.errors import ConfigError

ZSCORE_EPSILON = 1e-4  # of TRL and most of the field; small beside the 0.1..0.5 of a 0/1 reward's deviation


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
