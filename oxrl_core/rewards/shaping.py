"""From verdicts to the rewards that advantages are made of. The verdict itself stays on the rollout as it was given."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from oxrl_core.types import Rollout

if TYPE_CHECKING:
    from oxrl_core.config.schema import RewardConfig

HAS_VERDICT = ("ok", "no_answer")  # the other statuses say that the verifier failed, not the model


@dataclass
class RunningMoments:
    """Mean and deviation of all numbers seen so far, without keeping them (Welford 1962)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0  # sum of squared distances from the mean

    def add(self, value: float) -> None:
        """Takes one more number in."""
        self.count += 1
        distance = value - self.mean
        self.mean += distance / self.count
        self.squares += distance * (value - self.mean)

    @property
    def std(self) -> float:
        """The unbiased deviation; 0 of fewer than two numbers."""
        return math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else 0.0

    def to_dict(self) -> dict[str, float]:
        """The state as JSON, for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, state: Mapping[str, float]) -> RunningMoments:
        """The moments of a checkpoint; of an empty one, those of a fresh run."""
        if not state:
            return cls()
        return cls(int(state["count"]), float(state["mean"]), float(state["squares"]))


def shape(
    rollouts: Sequence[Rollout], reward: RewardConfig, max_completion_tokens: int, running: RunningMoments
) -> list[float]:
    """The reward of each rollout; NaN where there is no verdict.

    In this order: the verdict, normalized, clipped, minus `missing_eos_penalty`, minus the overlong penalty. So the
    moments are those of the verdicts alone, and a penalty counts in the units that the rewards end in: with normalize
    "running" in deviations, however large a reward model's scores are. With "running" the rollouts of this step are
    taken into the moments first, in their order.
    """
    rewards = [_verdict(rollout) for rollout in rollouts]
    if reward.normalize == "running":
        for value in rewards:
            if not math.isnan(value):
                running.add(value)
        # Before two different rewards were seen there is no scale: the rewards are 0, as their distance from the mean.
        scale = running.std or 1.0
        rewards = [(value - running.mean) / scale for value in rewards]
    if reward.clip is not None:
        # max and min with NaN depend on the order of their arguments: no verdict must stay no verdict.
        rewards = [value if math.isnan(value) else max(-reward.clip, min(reward.clip, value)) for value in rewards]
    return [
        value - _eos_penalty(rollout, reward) + overlong_penalty(rollout, reward, max_completion_tokens)
        for value, rollout in zip(rewards, rollouts, strict=True)
    ]


def overlong_penalty(rollout: Rollout, reward: RewardConfig, max_completion_tokens: int) -> float:
    """((L_max - buffer) - |y|) / buffer for the tokens within the buffer, 0 before it (arXiv:2503.14476, eq. 13)."""
    if not reward.overlong_buffer:
        return 0.0
    over = len(rollout.token_ids) - (max_completion_tokens - reward.overlong_buffer)
    return -min(max(over / reward.overlong_buffer, 0.0), 1.0)


def _verdict(rollout: Rollout) -> float:
    score = rollout.score
    return score.value if score is not None and score.status in HAS_VERDICT else math.nan


def _eos_penalty(rollout: Rollout, reward: RewardConfig) -> float:
    return reward.missing_eos_penalty if rollout.finish_reason != "stop" else 0.0
