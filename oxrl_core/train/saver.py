"""When and how the checkpoints of a run are taken, and how it goes on from one."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oxrl_core.config.load import config_hash
from oxrl_core.engine.checkpoint import CheckpointStore, num_receipts, step_of
from oxrl_core.errors import CheckpointError, DeadlineError, MachineError, OxrlError, RunFailure
from oxrl_core.runs.machine.disk import disk_error, disk_errors
from oxrl_core.runs.records import keep_rows_up_to, read_lines
from oxrl_core.types import Metrics, Progress

if TYPE_CHECKING:
    from oxrl_core.build import Parts
    from oxrl_core.config.schema import Config
    from oxrl_core.runs.rundir import RunDir

POLL_SECONDS = 0.05  # between two looks for the receipts of the ranks


@dataclass
class Commit:
    """A checkpoint that the ranks are writing while training goes on, and the thread that will commit it."""

    step: int
    thread: threading.Thread
    gave_up: threading.Event = field(default_factory=threading.Event)
    error: OxrlError | None = None


class Saver:
    """The checkpoints of a run. Every rank of torchrun holds one; rank 0 commits. Never are two on their way at once.

    In the background: each rank copies its state to host memory, and training goes on while threads write the copies.
    The thread of this process commits when every rank has left its receipt. One that fails is an alert, and the next
    one is waited for; a run that ends waits for its commit.
    """

    def __init__(
        self, run: RunDir, config: Config, parts: Parts, before_commit: Callable[[], None] = lambda: None
    ) -> None:
        self.run = run
        self.before_commit = before_commit  # makes durable what belongs to the checkpoint and stands elsewhere
        self.config = config
        self.parts = parts
        self.learner = parts.learner
        self.writes = parts.learner.is_coordinator
        self.store = CheckpointStore(run.checkpoints, config.train.keep_checkpoints, config.train.keep_best)
        self.saved_step = -1
        self.saved_at = time.monotonic()
        self.score: float | None = None  # of the step that was reported last
        self.commit: Commit | None = None
        self.trusts_background = True

    # ---- going on ----------------------------------------------------------------------------------------------------

    def restore(self, progress: Progress) -> int:
        """The last step with a row of metrics that still counts, after going on from the newest valid checkpoint."""
        learner = self.learner
        with disk_errors(self.run.checkpoints):
            found, error = learner.share(self._find() if self.writes else (None, None))
        if error is not None:
            raise error
        if found is not None:
            folder, manifest = found
            learner.load(folder)
            self.parts.load_extra(folder)
            for name, value in manifest["progress"].items():
                setattr(progress, name, value)
            self.saved_step = progress.step
        self.saved_at = time.monotonic()
        last_row = -1
        if self.writes:
            last_row = keep_rows_up_to(self.run.path / "metrics.jsonl", progress.step)
            self.run.forget_rollouts_after(progress.step)
            if found is not None:
                name = found[0].name
                self.run.append_event("info", "resumed", f"goes on from step {progress.step}", checkpoint=name)
                print(f"resumed from step {progress.step} ({name})", flush=True)
        return last_row

    def _find(self) -> tuple[tuple[Path, dict[str, Any]] | None, OxrlError | None]:
        """The newest valid checkpoint, or why the run must not begin: its checkpoints are all gone or torn."""
        store, where = self.store, str(self.run.checkpoints)
        store.sweep()
        if not self.config.train.resume:
            aside = store.set_aside()
            if aside:
                names = ", ".join(path.name for path in aside)
                self.run.append_event("info", "fresh_start", f"train.resume is off: {names} are set aside")
            return None, None
        found = store.newest()
        for bad in store.quarantined:
            text = f"{bad.name} does not match its manifest and is set aside"
            self.run.append_event("warning", "bad_checkpoint", text)
        committed = self._committed_step()
        bad = [path.name for path in store.bad()]
        afresh = "put a good copy back, or begin at step 0 with train.resume=false in the run's config.yaml"
        if found is None and bad:
            return None, CheckpointError(f"no checkpoint of this run is whole: {', '.join(bad)}", where, afresh)
        if found is None and committed > 0:
            return None, CheckpointError(f"step {committed} was saved, and no checkpoint is there", where, afresh)
        if found is not None and step_of(found[0]) < committed and not store.quarantined:
            text = f"step {committed} was saved, and the newest checkpoint that is there is {found[0].name}"
            self.run.append_event("warning", "lost_checkpoint", text)
        if found is not None:
            self._say_foreign(*found, committed)
        return found, None

    def _say_foreign(self, folder: Path, manifest: Mapping[str, Any], committed: int) -> None:
        """An alert where the checkpoint is of a run that this one is neither a fork nor a renamed copy of."""
        origin = str(manifest.get("run_id", self.run.run_id))
        if origin == self.run.run_id or step_of(folder) <= committed or "parent" in self.run.spec():
            return
        text = f"{folder.name} was saved by another run, {origin}: this one goes on with its weights and rows"
        self.run.append_event("warning", "foreign_checkpoint", text, checkpoint=folder.name)

    def _committed_step(self) -> int:
        """The newest step that was said to be saved since the last start from scratch; 0 where none was."""
        step = 0
        for event in read_lines(self.run.path / "events.jsonl"):
            if event.get("code") == "fresh_start":
                step = 0
            elif event.get("code") == "checkpoint":
                step = max(step, int(event.get("step", 0)))
        return step

    # ---- saving ------------------------------------------------------------------------------------------------------

    def save_if_due(self, progress: Progress, metrics: Metrics) -> None:
        """A checkpoint where one is due, after the report of a step."""
        self.score = score_of(metrics)
        in_background = self.config.train.async_save
        if in_background:
            self._look_at_background(wait=False)
        if self._is_due(progress.step):
            self.save(progress, in_background=in_background and self.trusts_background)

    def _is_due(self, step: int) -> bool:
        train = self.config.train
        if step == 0 or step == self.saved_step:
            return False
        if train.save_every and step % train.save_every == 0:
            return True
        if train.save_minutes is None:
            return False
        return bool(self.learner.share(time.monotonic() - self.saved_at >= train.save_minutes * 60))

    def save(self, progress: Progress, *, in_background: bool = False) -> None:
        """A checkpoint of exactly this state, unless it stands already. Without a background it stands afterwards."""
        if self.config.train.async_save:
            self._look_at_background(wait=True)
        if self.saved_step == progress.step:
            return
        if self.writes:
            self.run.write_progress("saving", progress.step, self.parts.total_steps)
        with self._says_how_to_go_on():
            folder = self.learner.share(self.store.begin(progress.step) if self.writes else None)
            self.learner.save(folder, in_background)
            if self.writes:
                self.parts.save_extra(folder)
                facts = self._facts()
                if in_background:
                    self._commit_later(folder, deepcopy(progress), facts)
                else:
                    self._finish(progress, facts)
        self.saved_step = progress.step
        self.saved_at = time.monotonic()
        if not in_background:
            self.trusts_background = True  # the disk takes what it is given

    def _facts(self) -> dict[str, Any]:
        """What the manifest says besides the progress."""
        return {"run_id": self.run.run_id, "config_hash": config_hash(self.config), "score": self.score}

    def _finish(self, progress: Progress, facts: Mapping[str, Any]) -> None:
        self.before_commit()
        _sync(self.run.path / "metrics.jsonl")  # its rows up to here belong to the checkpoint
        path = self.store.finish(progress, **facts)
        step = progress.step
        self.run.append_event("info", "checkpoint", f"step {step} is saved", checkpoint=path.name, step=step)

    # ---- in the background -------------------------------------------------------------------------------------------

    def _commit_later(self, folder: Path, progress: Progress, facts: Mapping[str, Any]) -> None:
        def commit() -> None:
            deadline = time.monotonic() + self.config.run.call_timeout_seconds
            try:
                while num_receipts(folder) < self.learner.group.size:
                    if made.gave_up.wait(POLL_SECONDS):
                        return
                    if time.monotonic() > deadline:
                        seconds = self.config.run.call_timeout_seconds
                        raise DeadlineError(f"the ranks did not write within {seconds:g} s", str(folder))
                self._finish(progress, facts)
            except OSError as error:
                made.error = disk_error(error, folder)
            except OxrlError as error:
                made.error = error
            except Exception as error:  # the end of the thread: the loop hears of it at its next step
                made.error = RunFailure(f"the commit failed: {type(error).__name__}: {error}", str(folder))

        made = self.commit = Commit(progress.step, threading.Thread(target=commit, name="commit", daemon=True))
        made.thread.start()

    def _look_at_background(self, *, wait: bool) -> None:
        """Hears how the save in the background went; `wait` for its end first."""
        if not self.learner.share(self.commit is not None):
            return
        failure = self.learner.save_failure(wait)
        is_over = True
        if self.commit is not None:
            if failure is not None:
                self.commit.gave_up.set()
            if wait or failure is not None:
                self.commit.thread.join()
            is_over = not self.commit.thread.is_alive()
            failure = failure or self.commit.error
        is_over, failure = self.learner.share((is_over, failure))
        if not is_over:
            return
        self.commit = None
        if failure is not None:
            self.saved_step = -1
            self.trusts_background = False
            if self.writes:
                with suppress(OSError):
                    self.store.sweep()
                text = f"a save in the background failed, the next one is waited for: {failure}"
                self.run.append_event("error", "save_failed", text)

    @contextmanager
    def _says_how_to_go_on(self) -> Generator[None]:
        """A disk that refuses ends the run with a word on how to go on; what was half written is removed."""
        try:
            yield
        except (OSError, MachineError) as error:
            with suppress(OSError):
                self.store.sweep()
            failure = error if isinstance(error, MachineError) else disk_error(error, self.run.checkpoints)
            newest = next(iter(self.store.committed()), None)
            since = f"goes on from {newest.name}, which is whole" if newest is not None else "begins at step 0"
            raise MachineError(
                f"the checkpoint could not be saved: {failure.what}",
                failure.where,
                f"{failure.next_step}, then start the run again: it {since}",
            ) from error


def score_of(metrics: Metrics) -> float | None:
    """What the best checkpoints are chosen by, higher is better: held-out reward, else minus the held-out loss."""
    if "eval/reward" in metrics:
        return metrics["eval/reward"]
    return -metrics["eval/loss"] if "eval/loss" in metrics else None


def _sync(path: Path) -> None:
    """The file is on disk afterwards, where there is one."""
    with suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
