"""A step of a run, repeated: the loop itself goes over what was recorded, and every number is compared.

The state before the step is a checkpoint, or the initial model, and the recorded steps since, learned from once more.
Learner and data are those of the run, on its backend; no sampler is started and no reward is asked (recorded.py).
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oxrl_core.algorithms.base import get_algorithm
from oxrl_core.build import Parts, RlParts, SlParts, build_rl, build_sl
from oxrl_core.engine.checkpoint import CheckpointStore, read_manifest
from oxrl_core.errors import CheckpointError, NotFoundError
from oxrl_core.rollout.recorder import StepRecord, read_rollouts, table_of
from oxrl_core.runs.records import write_json
from oxrl_core.runs.replay import (
    MOST_DIFFERENCES,
    REPLAY_KIND,
    RESULT_FILE,
    Difference,
    MetricChange,
    ReplayView,
    Start,
    WhatIf,
    check_can_repeat,
    inherit_model,
    rollouts_file,
    start_before,
)
from oxrl_core.runs.rundir import RunDir
from oxrl_core.train.comparison import (
    compare_metrics,
    compare_rollouts,
    compare_states,
    finite_or_none,
    is_repeatable,
    is_same,
)
from oxrl_core.train.pipeline import Pipeline
from oxrl_core.train.report import StepReport
from oxrl_core.train.rl import train_rl
from oxrl_core.train.sl import train_sl
from oxrl_core.types import Progress

if TYPE_CHECKING:
    from oxrl_core.config.schema import Config


class Rerun:
    """A run that goes again over steps that it has done."""

    def __init__(self, parts: RlParts | SlParts, progress: Progress) -> None:
        self.parts = parts
        self.progress = progress

    def reports(self, last_step: int) -> Iterator[StepReport]:
        """The reports of the steps from here to `last_step`; the loop stands still at each."""
        first, is_rl = self.progress.step, isinstance(self.parts, RlParts)
        for report in train_rl(self.parts, self.progress) if is_rl else train_sl(self.parts, self.progress):
            if report.step > first:
                yield report
            if report.step >= last_step:
                return

    def save(self, folder: Path) -> None:
        """Writes the state as a checkpoint of the run would hold it."""
        self.parts.learner.save(folder)
        self.parts.save_extra(folder)


@contextmanager
def rerun(
    parent: RunDir, config: Config, run: RunDir, start: Start, last_step: int, when_built: Callable[[], None]
) -> Iterator[Rerun]:
    """The run at the step where `start` is; what it writes goes below the folder of `run`."""
    progress = Progress()
    is_rl = get_algorithm(config.algorithm.name).kind == "rl"
    parts = build_rl(config, run, progress, parent.rollouts) if is_rl else build_sl(config, run, progress)
    try:
        when_built()
        if start.folder is not None:
            manifest = read_manifest(start.folder)
            if manifest is None:
                raise CheckpointError(
                    f"{start.name} does not match its manifest", str(start.folder), "name an earlier step"
                )
            parts.learner.load(start.folder)
            parts.load_extra(start.folder)
            for name, value in manifest["progress"].items():
                setattr(progress, name, value)
        if isinstance(parts, RlParts):
            parts.gap_limit = math.inf  # a record that was changed is shown, it ends nothing
            if isinstance(parts.draws, Pipeline):
                # The step after it has been drawn by then; it is recorded where the run came to learn from it.
                is_known = rollouts_file(parent, last_step + 1).is_file()
                parts.draws.last_step = last_step + 1 if is_known else last_step
        yield Rerun(parts, progress)
    finally:
        parts.close()


def replay(run: RunDir, when_built: Callable[[], None]) -> ReplayView:
    """What came of repeating the step that the run's spec names; it is in the run's folder as well."""
    order: dict[str, Any] = run.spec()[REPLAY_KIND]
    parent = RunDir(run.home / "runs" / order["run_id"])
    step, overrides = int(order["step"]), list(order["overrides"])
    start = check_can_repeat(parent, step)
    shutil.rmtree(run.checkpoints, ignore_errors=True)
    store = CheckpointStore(run.checkpoints, keep=2)
    rows = {int(row["step"]): row for row in parent.metrics(from_step=start.step)}
    result = ReplayView(
        run_id=run.run_id, of=parent.run_id, step=step, started_from=start.name, repeated_steps=step - start.step
    )
    found = Findings(result)
    before = start
    with rerun(parent, parent.config(), run, start, step, when_built) as again:
        report = StepReport(start.step, {})
        run.write_progress("replaying", 0, step - start.step)
        for report in again.reports(step):
            found.compare(report, rows.get(report.step), parent)
            run.append_metrics({"step": report.step} | report.metrics)
            run.write_progress("replaying", report.step - start.step, step - start.step, metrics=report.metrics)
            if overrides and report.step == step - 1:
                before = Start(report.step, store.commit(report.step, again.save, again.progress))
        after = store.commit(step, again.save, again.progress)
        found.compare_state(step, after, parent.checkpoints / f"step_{step:08d}", again)
    was = report
    if overrides:
        result.what_if = what_if(run, parent, before, was, after, overrides, when_built)
    shutil.rmtree(run.checkpoints, ignore_errors=True)  # as large as the model, and no use any more
    result.equal = result.num_differences == 0
    write_json(run.path / RESULT_FILE, result.model_dump(mode="json"), durable=True)
    return result


def what_if(
    run: RunDir,
    parent: RunDir,
    before: Start,
    was: StepReport,
    after: Path,
    overrides: list[str],
    when_built: Callable[[], None],
) -> WhatIf:
    """The step from the same state with the configuration of `run`, beside the step as it was."""
    with rerun(parent, run.config(), run, before, was.step, when_built) as other:
        (would_be,) = other.reports(was.step)
        changes = [
            MetricChange(name=name, was=finite_or_none(old), would_be=finite_or_none(new))
            for name in sorted({*was.metrics, *would_be.metrics})
            if is_repeatable(name)
            for old, new in [(was.metrics.get(name, float("nan")), would_be.metrics.get(name, float("nan")))]
            if not is_same(old, new)
        ]
        weights = other.parts.learner.compare_with(was.step, after)
    sizes = [one.largest for one in weights]
    return WhatIf(
        overrides=overrides,
        metrics=changes,
        learned_was=len(was.rollouts),
        learned_would_be=len(would_be.rollouts),
        largest_weight_change=max((size for size in sizes if size is not None), default=0.0),
    )


class Findings:
    """What a replay has found so far; it lands in the view."""

    def __init__(self, view: ReplayView) -> None:
        self.view = view

    def compare(self, report: StepReport, row: dict[str, Any] | None, parent: RunDir) -> None:
        """Compares a repeated step with its row of metrics and its rollouts."""
        if row is None:
            self._leave_out(f"metrics of step {report.step} (report.metrics_every)")
        else:
            self._add("metrics", *compare_metrics(report.step, row, report.metrics))
            missing = {name for name in row if name.startswith(("eval/", "sync/"))} - set(report.metrics)
            for name in sorted(missing):
                self._leave_out(name)
        if report.drawn:
            ours = table_of(
                StepRecord(report.step, report.drawn, report.rollouts, report.credits, report.trainer_logprobs)
            )
            rows = ours.to_pylist()
            for one in rows:
                one["score_parts"] = json.loads(one["score_parts"])
            theirs = read_rollouts(rollouts_file(parent, report.step))
            self._add("values of rollouts", *compare_rollouts(report.step, theirs, rows))

    def compare_state(self, step: int, ours: Path, theirs: Path, again: Rerun) -> None:
        """Compares the state after the step with the run's own checkpoint of it, where there is one."""
        if read_manifest(theirs) is None:
            self._leave_out(f"state after step {step} (no checkpoint of it)")
            return
        count, differences = compare_states(step, theirs, ours)
        if differences:  # the pieces of an optimizer have numbers, parameters have names
            differences = again.parts.learner.compare_with(step, theirs) + differences
        self._add("tensors", count, differences)

    def _add(self, what: str, count: int, differences: list[Difference]) -> None:
        self.view.compared[what] = self.view.compared.get(what, 0) + count
        self.view.num_differences += len(differences)
        room = MOST_DIFFERENCES - len(self.view.differences)
        self.view.differences += differences[:room]

    def _leave_out(self, what: str) -> None:
        if what not in self.view.not_compared:
            self.view.not_compared.append(what)


def bring_to_fork(run: RunDir, when_built: Callable[[], None]) -> None:
    """Leaves a checkpoint of the step at which a fork begins in its folder: its own, inherited or rebuilt now."""
    origin = run.spec()["parent"]
    step, parent = int(origin["step"]), RunDir(run.home / "runs" / origin["run_id"])
    newest = start_before(run, 2**62)
    if newest.folder is not None and newest.step >= step:
        return
    if not parent.path.is_dir():
        raise NotFoundError(f"the parent {parent.run_id} is gone", str(parent.path), "fork from another run")
    start = newest if newest.folder is not None else check_can_repeat(parent, step, from_step=0)
    inherit_model(parent, run)
    with rerun(parent, parent.config(), run, start, step, when_built) as again:
        run.write_progress("replaying", 0, step - start.step)
        for report in again.reports(step):
            run.write_progress("replaying", report.step - start.step, step - start.step, metrics=report.metrics)
        CheckpointStore(run.checkpoints, keep=2).commit(step, again.save, again.progress, run_id=parent.run_id)


def begin_fork(parts: Parts, progress: Progress, run: RunDir) -> None:
    """Checks that a fork goes on from its parent's state, and lets go what its overrides have made meaningless."""
    origin = run.spec()["parent"]
    if progress.step < origin["step"]:
        raise CheckpointError(
            f"the state of {origin['run_id']} after step {origin['step']} is not there",
            str(run.checkpoints),
            "fork once more",
        )
    if progress.step > origin["step"]:
        return
    if origin["other_rows"]:
        progress.epoch = progress.row_cursor = progress.item_cursor = 0
    if isinstance(parts, RlParts) and origin["other_draws"]:
        parts.draws.forget()
