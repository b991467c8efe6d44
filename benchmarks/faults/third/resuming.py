"""Runs that were stopped, and went on as something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.faults.define import Fault
from benchmarks.faults.patches import trained_until


def checkpoint_torn(run: Path) -> None:
    """The only checkpoint was copied while it was written: half of its weights are missing."""
    trained_until(run, 12)
    (weights,) = (run / "checkpoints").glob("*/**/rank-00000.safetensors")
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def rate_raised(run: Path) -> None:
    """Somebody edits the learning rate between two starts."""
    import yaml

    trained_until(run, 20)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["train"]["lr"] = 0.05
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def weights_left_behind(run: Path) -> None:
    """Going on restores the optimizer and all counters, and leaves the weights as the model came."""
    from oxrl_core.engine import policy

    trained_until(run, 25)
    load = policy.load_state

    def forgetful(engine: Any, folder: Path) -> None:
        from oxrl_core.engine.state import masters

        before = [master.detach().clone() for master in masters(engine)]
        load(engine, folder)
        for master, value in zip(masters(engine), before, strict=True):
            master.data.copy_(value)
        from oxrl_core.engine.state import refresh_weights

        refresh_weights(engine)

    policy.load_state = forgetful


def record_from_backup(run: Path) -> None:
    """The run directory's small files come from a backup that is five steps older than the checkpoint."""
    trained_until(run, 15)
    path = run / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-5]))


def other_data(run: Path) -> None:
    """The file of the rows was replaced by another task between two starts."""
    import yaml

    trained_until(run, 25)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["train"][0]["name"] = "copy3"
    (run / "config.yaml").write_text(yaml.safe_dump(config))


FAULTS = [
    Fault("checkpoint_torn", "the only checkpoint is torn", {"bad_checkpoint"}, "sft", plant=checkpoint_torn),
    Fault(
        "rate_raised_at_resume",
        "the learning rate is 50 times higher after a resume",
        {"resume_jump", "lr_too_high"},
        "dpo",
        plant=rate_raised,
    ),
    Fault(
        "weights_left_behind",
        "a resume brings back everything but the weights",
        {"resume_jump"},
        "sft",
        ["train.steps=50"],
        plant=weights_left_behind,
    ),
    Fault(
        "record_from_backup",
        "five steps of the record are missing after a resume",
        {"resume_gap"},
        "kto",
        plant=record_from_backup,
    ),
    Fault(
        "other_data_at_resume",
        "the rows are of another task after a resume",
        {"resume_jump"},
        "sft",
        ["train.steps=50"],
        plant=other_data,
    ),
]
