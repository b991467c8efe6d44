"""The supervised loop: take examples, learn from them, look at held-out ones. It yields one report a step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from oxrl_core.train.phases import enter_phase
from oxrl_core.train.report import Clock, StepReport
from oxrl_core.types import Metrics, Progress

if TYPE_CHECKING:
    from oxrl_core.build import SlParts


def train_sl(parts: SlParts, progress: Progress) -> Iterator[StepReport]:
    """One report per optimizer step, and a first one for the evaluation before any; a resumed run has had that."""
    yield StepReport(progress.step, evaluate(parts) if progress.step == 0 else {})
    while progress.step < parts.total_steps:
        clock = Clock()
        rows = parts.stream.take(parts.config.train.rows_per_step)
        with clock("time/train"):
            metrics = parts.learner.train_on_examples(parts.prepare(rows))
        progress.step += 1
        progress.num_tokens += int(metrics.get("num_tokens", 0))
        metrics |= clock.metrics(metrics.get("num_tokens", 0.0))
        if parts.is_evaluation_due(progress):
            metrics |= evaluate(parts)
        yield StepReport(progress.step, metrics, row_ids=parts.stream.taken)


def evaluate(parts: SlParts) -> Metrics:
    """Held-out loss, and what else the algorithm measures; nothing where there is no held-out data."""
    enter_phase("evaluating")
    return parts.learner.evaluate(parts.eval_examples) if parts.eval_examples else {}
