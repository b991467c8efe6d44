"""From completions to advantages: judge each, compare it with its group, and say what the step looked like."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from oxrl_core.errors import RewardError
from oxrl_core.rewards.base import Reward, score_rollouts
from oxrl_core.types import Metrics, Rollout

HAS_VERDICT = ("ok", "no_answer")  # the other statuses say that the verifier failed, not the model


def judge(reward: Reward, rollouts: Sequence[Rollout], timeout_seconds: float) -> None:
    """Writes a score onto each rollout. A reward that can judge none of them ends the run."""
    scores = score_rollouts(reward, rollouts, timeout_seconds)
    for rollout, score in zip(rollouts, scores, strict=True):
        rollout.score = score
    if not any(score.status in HAS_VERDICT for score in scores):
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


def groups_of(rollouts: Sequence[Rollout], group_size: int) -> list[list[Rollout]]:
    """The rollouts with a verdict, prompt by prompt; groups of one are left out, there is nothing to compare."""
    # Cut by position: a prompt drawn twice in one step makes two groups.
    cuts = range(0, len(rollouts), group_size)
    groups = [with_verdict(rollouts[start : start + group_size]) for start in cuts]
    return [group for group in groups if len(group) > 1]


def compare(
    groups: Sequence[Sequence[Rollout]], advantage: Callable[[Sequence[float]], list[float]], scale: float
) -> list[float]:
    """The advantage of each rollout, in the order of the flattened groups."""
    return [scale * value for group in groups for value in advantage([reward_of(rollout) for rollout in group])]


def describe(rollouts: Sequence[Rollout], groups: Sequence[Sequence[Rollout]]) -> Metrics:
    """Reward, length and group statistics of a step."""
    rewards = [reward_of(rollout) for rollout in with_verdict(rollouts)]
    mean = sum(rewards) / len(rewards)
    same = sum(len({reward_of(rollout) for rollout in group}) == 1 for group in groups)
    return {
        "reward/mean": mean,
        "reward/std": (sum((reward - mean) ** 2 for reward in rewards) / len(rewards)) ** 0.5,
        "reward/errors": 1 - len(rewards) / len(rollouts),
        "completion/length": sum(len(rollout.token_ids) for rollout in rollouts) / len(rollouts),
        "completion/truncated": sum(rollout.finish_reason == "length" for rollout in rollouts) / len(rollouts),
        "groups/zero_variance": same / max(len(groups), 1),
    }
