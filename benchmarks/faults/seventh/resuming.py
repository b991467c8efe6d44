"""Runs that go on with something else than they ended with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from benchmarks.faults.define import Fault
from benchmarks.faults.patches import trained_until


def _edit(run: Path, section: str, key: str, value: object) -> None:
    """Somebody edits the run's own config.yaml between two starts."""
    import yaml

    path = run / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config[section][key] = value
    path.write_text(yaml.safe_dump(config, sort_keys=False))


def schedule_begins_again(run: Path) -> None:
    """Weights and moments come back, and the number of steps behind them does not."""
    from oxrl_core.engine import policy

    trained_until(run, 20)
    right = policy.load_state

    def loaded(engine: Any, folder: Path) -> None:
        right(engine, folder)
        engine.num_steps = 0

    policy.load_state = loaded


def scratch_is_purged(run: Path) -> None:
    """The nightly job of the cluster has removed what lay on scratch for too long."""
    trained_until(run, 12)
    for folder in (run / "checkpoints").iterdir():
        shutil.rmtree(folder)


def prompts_cut_by_eight(run: Path) -> None:
    """The second half of the run is to fit onto a smaller machine."""
    trained_until(run, 14)
    _edit(run, "train", "prompts_per_step", 2)
    _edit(run, "rollout", "group_size", 2)


def completions_shortened(run: Path) -> None:
    """The second half of the run is to be cheaper."""
    trained_until(run, 14)
    _edit(run, "rollout", "max_completion_tokens", 2)


FAULTS = [
    Fault(  # pytorch#60265, transformers#27749
        "schedule_begins_again",
        "after a resume the schedule of the learning rate begins again",
        {"resume_jump"},
        "sft",
        ["train.lr_schedule=linear", "train.steps=40", "train.eval_every=10"],
        plant=schedule_begins_again,
    ),
    Fault(  # pain 9
        "scratch_is_purged",
        "the checkpoints were removed between two starts",
        {"bad_checkpoint"},
        "rloo",
        [],
        plant=scratch_is_purged,
    ),
    Fault(  # pain 9, pain 14
        "fewer_at_resume",
        "after a resume a step has four completions in place of sixty-four",
        {"resume_jump"},
        "sgrpo",
        ["train.steps=40"],
        plant=prompts_cut_by_eight,
    ),
    Fault(  # trl#6263
        "shorter_at_resume",
        "after a resume completions have room for two of four tokens",
        {"resume_jump", "truncation"},
        "dr_grpo",
        ["train.steps=36", "train.prompts_per_step=16"],
        plant=completions_shortened,
    ),
]
