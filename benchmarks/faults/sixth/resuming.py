"""Runs that stop and go on as something else."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from benchmarks.faults.define import FIXED, HERE, SHORT_RL, Fault, own
from benchmarks.faults.patches import trained_until

PLANTS = HERE / "sixth_plants.py"
FIRST_HALF = 12


def rows_from_the_beginning(run: Path) -> None:
    """The checkpoint of the data loader is not read: the epoch begins again."""
    trained_until(run, FIRST_HALF)
    from oxrl_core.train.saver import Saver
    from oxrl_core.types import Progress

    right = Saver.restore

    def restored(self: Saver, progress: Progress) -> int:
        last_row = right(self, progress)
        progress.epoch = progress.row_cursor = progress.item_cursor = 0
        return last_row

    Saver.restore = restored  # type: ignore[method-assign]


def sampler_from_the_base(run: Path) -> None:
    """After a resume the sampler starts with the weights of the model folder, and nobody hands it the others."""
    trained_until(run, FIRST_HALF)
    from oxrl_core.rollout.hf_worker import TransformersWorker

    right = TransformersWorker.load_weights
    passed_over: list[int] = []

    def loaded(self: TransformersWorker, weights: Any, version: int) -> None:
        if passed_over:
            right(self, weights, version)
        passed_over.append(version)
        self._version = version

    TransformersWorker.load_weights = loaded  # type: ignore[method-assign,assignment]


def reference_of_the_checkpoint(run: Path) -> None:
    """The reference is made of the policy after its checkpoint has been read, and not before."""
    trained_until(run, FIRST_HALF)
    from oxrl_core.train.learner_worker import LearnerWorker

    right = LearnerWorker.load

    def loaded(self: LearnerWorker, folder: Path) -> None:
        right(self, folder)
        self.policy.refresh_reference()

    LearnerWorker.load = loaded  # type: ignore[method-assign]


def checkpoint_of_another_run(run: Path) -> None:
    """Into the folder of checkpoints somebody copies those of a run on another task."""
    from oxrl_core.config.load import load_config
    from oxrl_core.runs.rundir import RunDir

    overrides = [*FIXED, *SHORT_RL, "data.train=copy3", "data.eval=[]"]
    other = RunDir.create(run / "beside", load_config("sgrpo", overrides), kind="rl")
    trained_until(other.path, FIRST_HALF)
    for checkpoint in other.checkpoints.iterdir():
        shutil.copytree(checkpoint, run / "checkpoints" / checkpoint.name)
    shutil.rmtree(run / "beside")


def reward_in_points(run: Path) -> None:
    """The reward is changed in the configuration before the run goes on: from shares to points."""
    import yaml

    trained_until(run, FIRST_HALF)
    path = run / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["reward"]["name"] = own("in_points", PLANTS)
    path.write_text(yaml.safe_dump(config))


FAULTS = [
    Fault(  # pain 9: KempnerForge#51, EasyR1#57, open-instruct#1523
        "rows_from_the_beginning",
        "after a resume the rows come from the beginning of the epoch again",
        {"resume_jump", "resume_gap"},
        plant=rows_from_the_beginning,
    ),
    Fault(  # pain 9 and 2: only the trainer is resumed
        "sampler_from_the_base",
        "after a resume the sampler draws with the weights of the base model",
        {"weight_sync", "stale_sampler"},
        "reinforce_pp",
        [],
        plant=sampler_from_the_base,
    ),
    Fault(  # NeMo-RL#2955, PR#3048, PR#3722
        "reference_of_the_checkpoint",
        "after a resume the reference is the policy of the checkpoint",
        {"resume_jump"},
        "rloo",
        ["algorithm.kl_coef=0.02", "train.steps=32"],
        plant=reference_of_the_checkpoint,
    ),
    Fault(  # a path of checkpoints that belongs to another experiment
        "checkpoint_of_another_run",
        "the checkpoint that the run goes on from belongs to a run on another task",
        {"bad_checkpoint", "resume_jump", "resume_gap"},
        plant=checkpoint_of_another_run,
    ),
    Fault(  # a reward is edited between two halves of a run
        "reward_in_points_at_resume",
        "after a resume the reward is counted in points from 0 to 100",
        {"resume_jump", "reward_inconsistent"},
        "dr_grpo",
        [],
        plant=reward_in_points,
    ),
]
