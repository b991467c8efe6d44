"""Pipelined draws: while a step is learned from, the completions of the next one are drawn with the weights at hand.

They are one optimizer step old when their turn comes. What is drawn does not depend on when: the weights of the sampler
change only after `settle`, and every completion has a seed of its own. A checkpoint holds those that wait for their
turn, with their verdicts, beside a Progress that has not taken their prompts yet: a resumed run takes the prompts
again and finds the completions in the checkpoint.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from oxrl_core.rollout.recorder import StepRecord, read_rollouts, table_of
from oxrl_core.train.draw import Drawn, Draws, draw
from oxrl_core.train.recorded import Record, RecordedSampler
from oxrl_core.train.report import Clock
from oxrl_core.types import Progress

if TYPE_CHECKING:
    from oxrl_core.build import RlParts

FILE = "pending.parquet"  # of a checkpoint


@dataclass
class Pending:
    """A draw whose turn comes later."""

    progress: Progress  # where the data stream stands after it
    clock: Clock
    drawn: Future[Drawn]


class Pipeline(Draws):
    """Draws one step ahead: beside the learner where the sampler has processes of its own, else before it."""

    def __init__(self, last_step: int, *, is_concurrent: bool) -> None:
        self.last_step = last_step  # nothing is drawn for steps past this one
        self.pool = ThreadPoolExecutor(1, "draw") if is_concurrent else None
        self.pending: Pending | None = None
        self.records: list[Record] = []  # of the draw that a checkpoint held, until its turn

    def next(self, parts: RlParts, progress: Progress, clock: Clock) -> Drawn:
        """The completions of the step that comes now, drawn before; those of the one after it are on their way."""
        if self.pending is None:
            self._begin(parts, progress, progress.step)
        self.settle(clock)
        pending, self.pending = self.pending, None
        assert pending is not None
        drawn, ahead = pending.drawn.result(), pending.progress
        progress.epoch, progress.row_cursor, progress.item_cursor = ahead.epoch, ahead.row_cursor, ahead.item_cursor
        progress.row_counts = dict(ahead.row_counts)
        for name, seconds in pending.clock.seconds.items():
            clock.seconds[name] = clock.seconds.get(name, 0.0) + seconds
        if progress.step + 1 < self.last_step:
            self._begin(parts, progress, progress.step + 1)
        return drawn

    def settle(self, clock: Clock) -> None:
        """Returns once nothing is being drawn; what went wrong there is raised here."""
        if self.pending is not None:
            with clock("time/wait"):
                self.pending.drawn.result()

    def save(self, folder: Path) -> None:
        """Writes the completions that wait for their turn, with their verdicts."""
        if self.pending is not None:
            drawn, step = self.pending.drawn.result(), self.pending.progress.step + 1
            pq.write_table(table_of(StepRecord(step, drawn.rollouts)), folder / FILE, compression="zstd")

    def load(self, folder: Path) -> None:
        """Takes up the completions that waited for their turn when the checkpoint was saved."""
        self.records = read_rollouts(folder / FILE) if (folder / FILE).is_file() else []

    def forget(self) -> None:
        """Draws the next step anew."""
        self.records = []

    def close(self) -> None:
        """Lets a draw that is on its way end by itself: its workers are being closed."""
        if self.pool is not None:
            self.pool.shutdown(wait=False, cancel_futures=True)

    def _begin(self, parts: RlParts, progress: Progress, step: int) -> None:
        """Sends the draw of a step on its way. It takes its prompts from the stream for a Progress of its own."""
        ahead, clock = replace(deepcopy(progress), step=step), Clock()
        parts.stream.rows.progress = ahead
        if self.records:
            records, self.records = self.records, []
            ahead.synced_step = records[0]["policy_version"]  # what the sampler held when it drew them
            recorded = RecordedSampler(lambda _step: records, parts.config.run.seed)
            parts = replace(parts, sampler=recorded, judge=recorded.judge)
        if self.pool is not None:
            future = self.pool.submit(draw, parts, ahead, clock)
        else:
            future = Future[Drawn]()
            future.set_result(draw(parts, ahead, clock))
        self.pending = Pending(ahead, clock, future)
