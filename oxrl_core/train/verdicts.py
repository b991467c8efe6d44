"""Verdicts on completions: judge each, put them together prompt by prompt, and say what the step looked like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from oxrl_core.errors import RewardError
from oxrl_core.rewards.base import Reward, score_rollouts
from oxrl_core.rewards.shaping import HAS_VERDICT
from oxrl_core.types import Metrics, Rollout

if TYPE_CHECKING:
    from oxrl_core.train.draw import Drawn


def judge(reward: Reward, rollouts: Sequence[Rollout], timeout_seconds: float) -> None:
    """Writes a score onto each rollout. A reward that can judge none of them ends the run."""
    scores = score_rollouts(reward, rollouts, timeout_seconds)
    for rollout, verdict in zip(rollouts, scores, strict=True):
        rollout.score = verdict
    if scores and not any(verdict.status in HAS_VERDICT for verdict in scores):
        raise RewardError(
            f"the reward {reward.name} judged none of {len(scores)} completions: {scores[0].detail}",
            where=rollouts[0].prompt.id,
            next_step="try the reward on one row by hand; check reward.name and the dataset's answer column",
        )


def with_verdict(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """The rollouts whose score is the model's own doing."""
    return [rollout for rollout in rollouts if rollout.score is not None and rollout.score.status in HAS_VERDICT]


def reward_of(rollout: Rollout) -> float:
    """The reward of a rollout that has a verdict."""
    assert rollout.score is not None
    return rollout.score.value


def groups_of(
    rollouts: Sequence[Rollout], group_size: int, *, is_judged: bool = True, compares: bool = True
) -> list[list[Rollout]]:
    """The rollouts with a verdict, prompt by prompt. A group of one is left out where it would be compared."""
    # Cut by position: a prompt drawn twice in one step makes two groups.
    cuts = range(0, len(rollouts), group_size)
    groups = [list(rollouts[start : start + group_size]) for start in cuts]
    if not is_judged:
        return groups
    return [group for group in map(with_verdict, groups) if len(group) > (1 if compares else 0)]


def describe(drawn: Drawn, reward: Reward) -> Metrics:
    """Reward, length and group statistics of a step, and what the service of the reward has to say."""
    rollouts = drawn.rollouts
    if not rollouts:
        return {}
    metrics = {
        "completion/length": sum(len(rollout.token_ids) for rollout in rollouts) / len(rollouts),
        "completion/truncated": sum(rollout.finish_reason == "length" for rollout in rollouts) / len(rollouts),
    }
    rewards = [reward_of(rollout) for rollout in with_verdict(rollouts)]
    if not rewards:
        return metrics
    mean = sum(rewards) / len(rewards)
    same = sum(len({reward_of(rollout) for rollout in group}) == 1 for group in drawn.groups)
    if reward.service is not None:
        metrics |= reward.service.metrics()
    return metrics | {
        "reward/mean": mean,
        "reward/std": (sum((reward - mean) ** 2 for reward in rewards) / len(rewards)) ** 0.5,
        "reward/errors": 1 - len(rewards) / len(rollouts),
        "groups/zero_variance": same / max(len(drawn.groups), 1),
        "groups/draws": float(drawn.num_draws),
    }
