"""The RL loop: draw, judge, compare, learn, hand over the weights. It yields one report a step and knows no logging."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from oxrl_core.rollout.verify import check_fingerprint, check_logprob_gap, check_versions
from oxrl_core.train.report import Clock, StepReport
from oxrl_core.train.verdicts import compare, describe, groups_of, judge, reward_of, with_verdict
from oxrl_core.types import Metrics, Progress

if TYPE_CHECKING:
    from oxrl_core.build import RlParts


def train_rl(parts: RlParts, progress: Progress) -> Iterator[StepReport]:
    """One report per step, after a first one that evaluates the policy as it came."""
    config, sampler, learner = parts.config, parts.sampler, parts.learner
    yield StepReport(progress.step, sync_weights(parts, progress.step) | evaluate(parts, progress.step))
    while progress.step < parts.total_steps and not parts.is_good_enough():
        clock = Clock()
        with clock("time/generate"):
            rollouts = sampler.generate(
                parts.stream.take(config.train.prompts_per_step),
                group_size=config.rollout.group_size,
                temperature=config.rollout.temperature,
                max_tokens=config.rollout.max_completion_tokens,
                step=progress.step,
            )
        check_versions(rollouts, progress.step)
        with clock("time/reward"):
            judge(parts.reward, rollouts, config.reward.timeout_seconds)
        groups = groups_of(rollouts, config.rollout.group_size)
        trained = [rollout for group in groups for rollout in group]
        advantages = compare(groups, parts.advantage, config.algorithm.advantage_scale)
        with clock("time/train"):
            metrics, logprobs = learner.train_on_rollouts(trained, advantages)
        check_logprob_gap(trained, logprobs, parts.gap_limit)
        progress.step += 1
        progress.num_rollouts += len(rollouts)
        progress.num_tokens += int(metrics.get("num_tokens", 0))
        with clock("time/sync"):
            metrics |= sync_weights(parts, progress.step)
        metrics |= describe(rollouts, groups) | clock.metrics(metrics.get("num_tokens", 0.0))
        parts.recent_rewards.append(metrics["reward/mean"])
        if parts.is_evaluation_due(progress.step):
            metrics |= evaluate(parts, progress.step)
        yield StepReport(progress.step, metrics, trained, advantages, logprobs)


def sync_weights(parts: RlParts, version: int) -> Metrics:
    """Hands the trainer's weights to every sampler and proves that they arrived: both read the probe row alike."""
    parts.sampler.load_weights(parts.learner.export_weights(), version)
    theirs = parts.sampler.probe(parts.probe_row)
    distance = check_fingerprint(parts.learner.probe(parts.probe_row), theirs, parts.fingerprint_limit)
    return {"sync/fingerprint": distance, "policy_version": float(version)}


def evaluate(parts: RlParts, step: int) -> Metrics:
    """Greedy held-out reward and the share of full scores; nothing where there is no held-out data."""
    if not parts.eval_prompts:
        return {}
    rollouts = parts.sampler.generate(
        parts.eval_prompts,
        group_size=1,
        temperature=1.0,
        max_tokens=parts.config.rollout.max_completion_tokens,
        step=step,
        greedy=True,
    )
    judge(parts.reward, rollouts, parts.config.reward.timeout_seconds)
    rewards = [reward_of(rollout) for rollout in with_verdict(rollouts)]
    share_full = sum(reward >= 1.0 for reward in rewards) / len(rewards)
    return {"eval/reward": sum(rewards) / len(rewards), "eval/accuracy": share_full}
