"""Trainer and sampler on the same tokens before anything is learned: a step with a learning rate of 0."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, cast

from oxrl_core.algorithms.base import get_algorithm
from oxrl_core.data.stream import rendered
from oxrl_core.errors import LogprobGapError
from oxrl_core.rollout.recorder import StepRecord
from oxrl_core.rollout.verify import check_logprob_gap
from oxrl_core.types import Metrics, Progress, Prompt

if TYPE_CHECKING:
    from oxrl_core.build import Parts, RlParts
    from oxrl_core.rollout.recorder import Recorder

MOST_TOKENS = 64  # of a completion: a wrong weight or temperature shows in the first ones
SEED_STEP = 2**62  # far above all draws of all steps: the test takes no seed of theirs
ROWS_LOOKED_AT = 64


def self_test(parts: Parts, progress: Progress, recorder: Recorder | None) -> Metrics:
    """The largest gap between trainer and sampler on a few drawn completions, as `gap/self_test`; {} where there is
    nothing to compare. Raises where the mean gap is over the limit; the drawn completions are recorded as step 0.
    """
    config = parts.config
    number = config.tripwires.self_test_prompts
    if (
        not number
        or get_algorithm(config.algorithm.name).lesson != "advantages"
        or progress.synced_step != progress.step
    ):
        return {}
    parts = cast("RlParts", parts)
    prompts = some_prompts(parts, number)
    if not prompts:
        return {}
    rollouts = parts.sampler.generate(
        prompts,
        group_size=1,
        temperature=config.rollout.temperature,
        max_tokens=min(MOST_TOKENS, config.rollout.max_completion_tokens),
        step=SEED_STEP,
    )
    logprobs = [measured.old_logprobs for measured in parts.learner.measure(rollouts)]
    try:
        gap = check_logprob_gap(rollouts, logprobs, parts.gap_limit)
    except LogprobGapError:
        if recorder is not None:
            recorder.write(StepRecord(0, rollouts, rollouts, trainer_logprobs=logprobs))
        raise
    return {"gap/self_test": gap.max}


def some_prompts(parts: RlParts, number: int) -> list[Prompt]:
    """The first training prompts; the stream stays where it is, and counts none of them."""
    stream = parts.stream
    counts, first = stream.notes.counts.copy(), dict(stream.notes.first)
    rows = islice(stream.rows.epoch_rows(0), ROWS_LOOKED_AT)
    prompts = list(islice((prompt for row in rows for prompt in rendered([row], stream.render)), number))
    stream.notes.counts, stream.notes.first = counts, first
    return prompts
