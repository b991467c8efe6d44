"""The reward of runs that need none."""

from __future__ import annotations

from oxrl_core.errors import RewardError
from oxrl_core.rewards.base import reward
from oxrl_core.types import Rollout, Score


@reward("none")
def none(rollout: Rollout) -> Score:
    """No verdict, for algorithms that judge nothing; who asks for one all the same is told so."""
    raise RewardError(
        "reward.name is none, so nobody judges the completions",
        where="reward.name",
        next_step="name a reward, or take an algorithm that needs none",
    )
