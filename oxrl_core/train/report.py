"""What a step did and where its seconds went."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from oxrl_core.train.phases import enter_phase
from oxrl_core.train.row_facts import RowFacts
from oxrl_core.types import Credit, Metrics, Rollout


@dataclass
class StepReport:
    """What one step did; `step` is the number of optimizer steps behind it.

    `drawn` are all completions of the step, draw after draw, in the order in which they were drawn: with the prompts of
    the data stream they are enough to replay it. `rollouts` are those of them that were learned from, the very same
    objects, in the order of `credits` and `trainer_logprobs`. A completion's `seed` is its key: no other of the run has
    it.
    """

    step: int
    metrics: Metrics
    rollouts: list[Rollout] = field(default_factory=list)  # those that were learned from
    credits: list[Credit] = field(default_factory=list)  # in the same order; empty where it learned from examples
    trainer_logprobs: list[list[float]] = field(default_factory=list)  # before the update; empty likewise
    drawn: list[Rollout] = field(default_factory=list)  # all of the step; empty in a supervised run
    row_ids: list[str] = field(default_factory=list)  # of a supervised step: its rows, one for each item
    row_facts: list[RowFacts] = field(default_factory=list)  # what of each was trained on, in the same order


class Clock:
    """Names stretches of a step and adds them up."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.seconds: Metrics = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        enter_phase(name)
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started

    def metrics(self, num_tokens: float) -> Metrics:
        """The stretches, the whole step, and the trained tokens per second of it."""
        seconds = time.monotonic() - self.started
        return self.seconds | {"seconds": seconds, "tokens_per_second": num_tokens / max(seconds, 1e-9)}
