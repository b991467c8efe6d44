"""Tripwires between trainer and sampler: the same weights, policy version and log-probs. Plain numbers."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from oxrl_core.errors import LogprobGapError, StalePolicyError, WeightSyncError
from oxrl_core.types import Rollout

# Longer than a block of vLLM's prefix cache on the CPU (128 tokens): a stale cache shows in the last token.
PROBE_TOKENS = 160
# In float32 the two engines differ by a few 1e-6; in bfloat16 single tokens differ by tenths.
FINGERPRINT_LIMITS = {"float32": 1e-3, "bfloat16": 0.5}
GAP_LIMITS = {"float32": 1e-4, "bfloat16": 0.05}


@dataclass(frozen=True)
class LogprobGap:
    """How far trainer and sampler are apart on the same tokens: |trainer - sampler| over a step."""

    mean: float
    max: float
    worst: str  # which token of which sample


def probe_row(vocab_size: int, window: int, seed: int = 0, without: Collection[int] = ()) -> list[int]:
    """A fixed row of random tokens that trainer and sampler both read after each weight sync.

    Without those that only stand for something else: placeholders of pictures and sounds.
    """
    draw = random.Random(seed)
    row = [draw.randrange(vocab_size) for _ in range(max(2, min(PROBE_TOKENS, window - 1)))]
    allowed = next(token for token in range(vocab_size) if token not in without)
    return [allowed if token in without else token for token in row]


def check_fingerprint(
    trainer_logprobs: Sequence[float], sampler_logprobs_by_worker: Sequence[Sequence[float]], limit: float
) -> float:
    """The largest distance between the trainer's and any worker's log-probs of the probe row."""
    largest = 0.0
    for worker, theirs in enumerate(sampler_logprobs_by_worker):
        if len(theirs) != len(trainer_logprobs):
            raise WeightSyncError(
                f"the trainer read {len(trainer_logprobs)} tokens of the probe row, the sampler {len(theirs)}",
                where=f"sampler worker {worker}",
                next_step="this is a defect of oxRL; please report it",
            )
        gaps = [abs(ours - their) for ours, their in zip(trainer_logprobs, theirs, strict=True)]
        at = max(range(len(gaps)), key=lambda i: _size(gaps[i]))
        if not gaps[at] <= limit:  # written so that a NaN fails
            raise WeightSyncError(
                f"after the weight sync the sampler's log-prob of probe token {at} is {theirs[at]:.6g}, "
                f"the trainer's {trainer_logprobs[at]:.6g}: more than {limit:g} apart",
                where=f"sampler worker {worker}",
                next_step="some weights did not arrive: check the sampler's log, or use rollout.engine: transformers",
            )
        largest = max(largest, gaps[at])
    return largest


def check_versions(rollouts: Sequence[Rollout], version: int) -> None:
    """Raises unless every rollout was drawn by the policy in training."""
    stale = [rollout for rollout in rollouts if rollout.policy_version != version]
    if stale:
        raise StalePolicyError(
            f"{len(stale)} of {len(rollouts)} rollouts come from policy version {stale[0].policy_version}, "
            f"the policy in training is version {version}",
            where=f"{stale[0].prompt.id}, sample {stale[0].sample_index}",
            next_step="weights must be handed to the sampler after every update",
        )


def staleness(rollouts: Sequence[Rollout], step: int) -> float:
    """How many optimizer steps the policy is past the one that drew, averaged over the rollouts."""
    return sum(step - rollout.policy_version for rollout in rollouts) / max(len(rollouts), 1)


def logprob_gap(rollouts: Sequence[Rollout], trainer_logprobs: Sequence[Sequence[float]]) -> LogprobGap:
    """The gap between what the sampler and the trainer say about the tokens of a step's completions."""
    total, count, largest, worst = 0.0, 0, 0.0, ""
    for rollout, ours in zip(rollouts, trainer_logprobs, strict=True):
        for at, (theirs, our) in enumerate(zip(rollout.rollout_logprobs, ours, strict=True)):
            gap = abs(our - theirs)
            total += gap
            count += 1
            if not worst or _size(gap) > _size(largest):
                largest, worst = gap, f"{rollout.prompt.id}/{rollout.sample_index}, token {at}"
    return LogprobGap(mean=total / max(count, 1), max=largest, worst=worst)


def check_logprob_gap(
    rollouts: Sequence[Rollout], trainer_logprobs: Sequence[Sequence[float]], limit: float
) -> LogprobGap:
    """The gap of a step; raises where its mean exceeds the limit: the policy gradient would be biased."""
    gap = logprob_gap(rollouts, trainer_logprobs)
    if not gap.mean <= limit:
        raise LogprobGapError(
            f"trainer and sampler disagree about the same tokens by {gap.mean:.3g} on average (limit {limit:g}), "
            f"by {gap.max:.3g} at worst",
            where=gap.worst,
            next_step="use model.precision=float32 or rollout.engine=transformers, or raise rollout.logprob_gap_limit",
        )
    return gap


def _size(gap: float) -> float:
    """The gap as a number to sort by: NaN is the largest of all."""
    return math.inf if math.isnan(gap) else gap
