"""When checkpoints are taken and how a run goes on: a small trainer, and the real files, threads and disks."""

from __future__ import annotations

import os
import resource
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from oxrl_core.build import Parts
from oxrl_core.config.load import load_config
from oxrl_core.engine.checkpoint import read_manifest
from oxrl_core.engine.state import Snapshot
from oxrl_core.errors import CheckpointError, MachineError
from oxrl_core.runs.rundir import RunDir
from oxrl_core.train.background import BackgroundSave
from oxrl_core.train.learner import Learner
from oxrl_core.train.saver import Saver
from oxrl_core.types import Progress

DATA = {"train": "reverse3", "eval": "reverse3"}
CONFIG = {"run": {"name": "saves"}, "model": {"path": "miniature:chars"}, "data": DATA}


class Trainer:
    """One rank whose whole state is a tensor. `may_write`: what the background waits for."""

    def __init__(self) -> None:
        self.weights = torch.zeros(5000)
        self.save: BackgroundSave | None = None
        self.may_write = threading.Event()
        self.may_write.set()

    def call(self, method: str, *arguments: Any) -> Any:
        if method == "load":
            self.weights = load_file(arguments[0] / "rank-00000.safetensors")["weights"]
        elif method == "save_failure":
            return self.save.failure(arguments[0]) if self.save is not None else None
        else:
            folder, in_background = arguments
            weights = self.weights.clone() if in_background else self.weights
            snapshot = Snapshot(0, {"weights": weights}, {"step": float(weights[0])})
            save = BackgroundSave([(snapshot, folder)])
            if not in_background:
                save.write()
                return None
            self.save, write = save, save.write
            save.write = lambda: (self.may_write.wait(30), write())[1]  # a slow disk
            save.start()
        return None


class Run:
    """A run directory with a saver; `step` trains once and reports."""

    def __init__(self, home: Path, again: RunDir | None = None, **train: Any) -> None:
        loaded = load_config(CONFIG | {"algorithm": {"name": "sft"}, "train": {"keep_checkpoints": 9, **train}})
        self.dir = again or RunDir.create(home, loaded, "sl")
        self.trainer = Trainer()
        group = SimpleNamespace(size=1, call=lambda method, *arguments: [self.trainer.call(method, *arguments)])
        learner = Learner(group)  # type: ignore[arg-type]
        parts = SimpleNamespace(learner=learner, total_steps=99, save_extra=self.save_extra, load_extra=self.load_extra)
        self.extra = "nothing"
        self.saver = Saver(self.dir, loaded.config, parts)  # type: ignore[arg-type]
        self.progress = Progress()

    def save_extra(self, folder: Path) -> None:
        (folder / "extra.txt").write_text(f"at {self.progress.step}")

    def load_extra(self, folder: Path) -> None:
        self.extra = (folder / "extra.txt").read_text()

    def step(self, **metrics: float) -> None:
        self.progress.step += 1
        self.trainer.weights += 1
        self.dir.append_metrics({"step": self.progress.step})
        self.saver.save_if_due(self.progress, metrics)

    def steps_saved(self) -> list[int]:
        folders = sorted(self.dir.checkpoints.glob("step_*"))
        assert all(read_manifest(folder) for folder in folders)
        return [int(folder.name.removeprefix("step_")) for folder in folders]

    def codes(self) -> list[str]:
        return [event["code"] for event in self.dir.events() if event["code"] != "created"]


def test_parts_keep_nothing_beside_the_ranks_unless_they_say_so(tmp_path: Path) -> None:
    Parts.save_extra(None, tmp_path)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_every_so_many_steps_and_what_parts_add_comes_back(tmp_path: Path) -> None:
    run = Run(tmp_path, save_every=2)
    for _ in range(5):
        run.step()
    assert run.steps_saved() == [2, 4]
    again = Run(tmp_path, run.dir, save_every=2)
    assert again.saver.restore(again.progress) == 4, "the row of step 5 is written again"
    assert (again.progress.step, float(again.trainer.weights[7]), again.extra) == (4, 4.0, "at 4")
    assert [row["step"] for row in run.dir.metrics()] == [1, 2, 3, 4]


def test_minutes_count_as_well(tmp_path: Path) -> None:
    run = Run(tmp_path, save_minutes=10)
    run.step()
    run.saver.saved_at -= 601
    run.step()
    run.step()
    assert run.steps_saved() == [2]


def test_the_best_stay_beside_the_newest(tmp_path: Path) -> None:
    run = Run(tmp_path, save_every=1, keep_checkpoints=2, keep_best=1, eval_every=1)
    for reward in (0.1, 0.9, 0.3, 0.2, 0.4):
        run.step(**{"eval/reward": reward, "eval/loss": reward})
    assert run.steps_saved() == [2, 4, 5]
    manifest = read_manifest(run.dir.checkpoints / "step_00000002")
    assert manifest is not None
    assert manifest["score"] == 0.9


def test_without_rewards_the_lowest_loss_is_the_best(tmp_path: Path) -> None:
    run = Run(tmp_path, save_every=1, keep_checkpoints=1, keep_best=1, eval_every=1)
    for loss in (3.0, 1.0, 2.0):
        run.step(**{"eval/loss": loss})
    assert run.steps_saved() == [2, 3]


def test_in_the_background_the_state_of_the_step_is_saved_while_training_goes_on(tmp_path: Path) -> None:
    run = Run(tmp_path, save_every=2, async_save=True)
    run.trainer.may_write.clear()
    for _ in range(3):
        run.step()
    assert run.steps_saved() == [], "nothing is committed yet, and training has gone on"
    run.trainer.may_write.set()
    run.step()  # due again: it waits for the one before, so that never two are on their way
    run.saver.save(run.progress)
    assert run.steps_saved() == [2, 4], "an ended run waits for its commit"
    saved = load_file(run.dir.checkpoints / "step_00000002" / "rank-00000.safetensors")["weights"]
    assert saved.unique().tolist() == [2.0], "of step 2, not of when it was written"
    assert run.codes() == ["checkpoint", "checkpoint"]


def test_a_save_that_fails_in_the_background_is_an_alert_and_the_next_is_waited_for(tmp_path: Path) -> None:
    run = Run(tmp_path, save_every=1, async_save=True)
    run.step()
    run.saver.save(run.progress)
    with files_up_to(6000):
        run.step()
        run.saver._look_at_background(wait=True)
    assert run.codes() == ["checkpoint", "save_failed"]
    (alert,) = run.dir.events(alerts_only=True)
    assert "may not grow that large" in alert["message"]
    assert sorted(path.name for path in run.dir.checkpoints.iterdir()) == ["step_00000001"]
    run.trainer.may_write.clear()  # whatever is written in the background now would not come
    run.step()
    assert run.steps_saved() == [1, 3]
    assert run.saver.trusts_background


@contextmanager
def files_up_to(num_bytes: int) -> Iterator[None]:
    """Within it no file of this process grows further: the kernel refuses, as it does where a disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Within it this process is no longer allowed everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_full_disk_ends_the_save_and_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    run = Run(tmp_path, save_every=1)
    run.step()
    with files_up_to(6000), pytest.raises(MachineError) as caught:
        run.step()
    assert "free some space" in caught.value.next_step
    assert "goes on from step_00000001, which is whole" in caught.value.next_step
    assert sorted(path.name for path in run.dir.checkpoints.iterdir()) == ["step_00000001"], "nothing half written"
    again = Run(tmp_path, run.dir, save_every=1)
    again.saver.restore(again.progress)
    assert float(again.trainer.weights[0]) == 1.0
    again.step()
    assert again.steps_saved() == [1, 2]


def test_a_folder_that_may_not_be_written_says_so() -> None:
    with tempfile.TemporaryDirectory() as home:
        Path(home).chmod(0o755)
        run = Run(Path(home), save_every=1)
        run.step()
        for folder in (run.dir.path, run.dir.checkpoints):
            folder.chmod(0o555)
        with as_nobody(), pytest.raises(MachineError, match="cannot be written: Permission denied") as caught:
            run.progress.step += 1
            with run.saver._says_how_to_go_on():
                run.saver.store.begin(run.progress.step)
        assert "make it writable, then start the run again" in caught.value.next_step
        for folder in (run.dir.path, run.dir.checkpoints):
            folder.chmod(0o755)
        assert run.steps_saved() == [1]


def test_the_metrics_of_a_full_disk_are_refused_and_never_half_a_line(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.step()
    before = (run.dir.path / "metrics.jsonl").read_bytes()
    with files_up_to(len(before) + 5), pytest.raises(OSError, match="File too large"):
        run.dir.append_metrics({"step": 2, "loss": 1.25})
    assert [row["step"] for row in run.dir.metrics()] == [1], "five bytes of a line are no row"
    run.dir.append_metrics({"step": 2, "loss": 1.25})
    assert [row["step"] for row in run.dir.metrics()] == [1, 2]


def test_a_run_whose_checkpoints_are_all_torn_does_not_begin_in_silence(tmp_path: Path) -> None:
    run = Run(tmp_path, save_every=1)
    run.step()
    (run.dir.checkpoints / "step_00000001" / "extra.txt").write_text("else")
    for _ in range(2):  # said at every start, not only when it is found
        again = Run(tmp_path, run.dir)
        with pytest.raises(CheckpointError, match="no checkpoint of this run is whole: bad_step_00000001"):
            again.saver.restore(again.progress)
    assert run.codes().count("bad_checkpoint") == 1
    fresh = Run(tmp_path, run.dir, resume=False, save_every=1)
    assert fresh.saver.restore(fresh.progress) == -1
    fresh.step()
    assert fresh.steps_saved() == [1]
    last = Run(tmp_path, run.dir)
    last.saver.restore(last.progress)
    assert last.progress.step == 1, "what was set aside does not stand in the way"


def test_a_run_whose_checkpoints_are_gone_does_not_begin_in_silence(tmp_path: Path) -> None:
    run = Run(tmp_path, save_every=1)
    run.step()
    (run.dir.checkpoints / "step_00000001").rename(tmp_path / "elsewhere")
    again = Run(tmp_path, run.dir)
    with pytest.raises(CheckpointError, match="step 1 was saved, and no checkpoint is there"):
        again.saver.restore(again.progress)


def test_a_checkpoint_of_another_run_is_said_to_be_one(tmp_path: Path) -> None:
    theirs, own = Run(tmp_path, save_every=1), Run(tmp_path)
    theirs.step()
    (theirs.dir.checkpoints / "step_00000001").rename(own.dir.checkpoints / "step_00000001")
    own.saver.restore(own.progress)
    (event,) = [event for event in own.dir.events() if event["code"] == "foreign_checkpoint"]
    assert f"step_00000001 was saved by another run, {theirs.dir.run_id}" in event["message"]


def test_a_run_that_was_renamed_goes_on_as_itself(tmp_path: Path) -> None:
    run = Run(tmp_path, save_every=1)
    run.step()
    renamed = RunDir(run.dir.path.rename(run.dir.path.with_name("another-name")))
    again = Run(tmp_path, renamed)
    again.saver.restore(again.progress)
    assert again.progress.step == 1
    assert "foreign_checkpoint" not in again.codes()


def test_a_fresh_start_sets_aside_what_was_there(tmp_path: Path) -> None:
    run = Run(tmp_path, save_every=1)
    run.step()
    run.step()
    fresh = Run(tmp_path, run.dir, resume=False, save_every=1)
    assert fresh.saver.restore(fresh.progress) == -1
    fresh.trainer.weights += 100
    fresh.step()
    assert fresh.steps_saved() == [1]
    saved = load_file(run.dir.checkpoints / "step_00000001" / "rank-00000.safetensors")["weights"]
    assert float(saved[0]) == 101.0, "of this attempt, not of the earlier one"
    assert len(list(run.dir.checkpoints.glob("old_step_*"))) == 2
