"""The RL loop: draw, judge, make a lesson of it, learn, hand over the weights. It yields one report a step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from oxrl_core.rewards.shaping import RunningMoments
from oxrl_core.rollout.verify import check_fingerprint, check_logprob_gap, staleness
from oxrl_core.train.lessons import make_lesson
from oxrl_core.train.phases import enter_phase
from oxrl_core.train.report import Clock, StepReport
from oxrl_core.train.verdicts import describe, reward_of, with_verdict
from oxrl_core.types import Metrics, Progress

if TYPE_CHECKING:
    from oxrl_core.build import RlParts

REMEMBERED_REWARDS = 10  # steps whose mean reward decides about train.stop_at_reward


def train_rl(parts: RlParts, progress: Progress) -> Iterator[StepReport]:
    """One report per step, after a first one that evaluates the policy as it came; a resumed run has had that."""
    config, learner = parts.config, parts.learner
    moments = RunningMoments.from_dict(progress.reward_moments)
    first = restore_sampler(parts, progress)
    yield StepReport(progress.step, first | evaluate(parts, 0) if progress.step == 0 else {})
    while progress.step < parts.total_steps and not parts.is_good_enough(progress):
        clock = Clock()
        drawn = parts.draws.next(parts, progress, clock)
        age = staleness(drawn.rollouts, progress.step)
        with clock("time/train"):
            lesson = make_lesson(drawn, config, learner, moments)
            metrics, logprobs = learner.learn(lesson)
        if logprobs and age == 0:
            check_logprob_gap(lesson.rollouts, logprobs, parts.gap_limit)
        parts.draws.settle(clock)
        progress.step += 1
        progress.num_rollouts += len(drawn.rollouts)
        progress.num_tokens += int(metrics.get("num_tokens", 0))
        progress.reward_moments = moments.to_dict()
        metrics |= lesson.metrics | describe(drawn, parts.reward) | {"staleness": age}
        if "reward/mean" in metrics:
            progress.recent_rewards = [*progress.recent_rewards, metrics["reward/mean"]][-REMEMBERED_REWARDS:]
        if parts.is_sync_due(progress):
            with clock("time/sync"):
                metrics |= sync_weights(parts, progress)
        metrics |= clock.metrics(metrics.get("num_tokens", 0.0))
        if parts.is_evaluation_due(progress):
            metrics |= evaluate(parts, progress.step)
        yield StepReport(progress.step, metrics, lesson.rollouts, lesson.credits, logprobs, drawn.rollouts)


def sync_weights(parts: RlParts, progress: Progress) -> Metrics:
    """Hands the trainer's weights to every sampler and proves that they arrived: both read the probe row alike."""
    parts.sampler.load_weights(parts.learner.export_weights(), progress.step)
    theirs = parts.sampler.probe(parts.probe_row)
    distance = check_fingerprint(parts.learner.probe(parts.probe_row), theirs, parts.fingerprint_limit)
    progress.synced_step = progress.step
    if parts.config.algorithm.reference == "synced":
        parts.learner.refresh_reference()  # the policy that draws is the one to be told apart from
    return {"sync/fingerprint": distance, "policy_version": float(progress.step)}


def restore_sampler(parts: RlParts, progress: Progress) -> Metrics:
    """Gives the sampler the weights that it had: those of the trainer, or of the reference where that is behind."""
    enter_phase("syncing")
    if progress.synced_step == progress.step:
        return sync_weights(parts, progress)
    parts.sampler.load_weights(parts.learner.export_reference(), progress.synced_step)
    return {"policy_version": float(progress.synced_step)}


def evaluate(parts: RlParts, step: int) -> Metrics:
    """Greedy held-out reward and the share of full scores, or the held-out loss where nothing is judged."""
    enter_phase("evaluating")
    if parts.eval_examples:
        return parts.learner.evaluate(parts.eval_examples)
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
    parts.judge(rollouts)
    rewards = [reward_of(rollout) for rollout in with_verdict(rollouts)]
    share_full = sum(reward >= 1.0 for reward in rewards) / len(rewards)
    return {"eval/reward": sum(rewards) / len(rewards), "eval/accuracy": share_full}
