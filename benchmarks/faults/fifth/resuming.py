"""Runs that were stopped, and went on as something else or not at all."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.faults.define import Fault
from benchmarks.faults.fifth_plants import edit_config
from benchmarks.faults.fourth_plants import GENTLE, half_taught, set_in
from benchmarks.faults.patches import trained_until
from oxrl_core.runs.rundir import RunDir


def temperature_edited(run: Path) -> None:
    """Somebody tries a higher temperature between two starts."""
    half_taught(run)
    trained_until(run, 14)
    set_in(run, "rollout.temperature", 3.0)


def alpha_edited(run: Path) -> None:
    """Somebody multiplies alpha by sixteen between two starts."""
    trained_until(run, 22)
    edit_config(run, lambda config: config["model"]["lora"].update(alpha=512))


def bits_flipped(run: Path) -> None:
    """A disk has lost a block in the middle of the weights."""
    trained_until(run, 10)
    for weights in (run / "checkpoints").glob("*/**/*.safetensors"):
        content = bytearray(weights.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 4096] = bytes(255 - byte for byte in content[middle : middle + 4096])
        weights.write_bytes(content)


def stopped_at_12(run: Path) -> None:
    """The run is stopped after 12 steps and goes on."""
    trained_until(run, 12)


def rotated_away(run: RunDir) -> None:
    """A rotation of logs has thrown away what was written in the first minutes after the resume."""
    path = run.path / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("".join(f"{line}\n" for line in lines if not 13 <= json.loads(line)["step"] <= 18))


FAULTS = [
    Fault(
        "temperature_edited_at_resume",
        "the sampling temperature is 3 after a resume",
        {"resume_jump", "temperature_high"},
        "sgrpo",
        [*GENTLE, "train.steps=28"],
        plant=temperature_edited,
    ),
    Fault(
        "alpha_edited_at_resume",
        "the adapters count sixteen times as much after a resume",
        {"resume_jump"},
        "sft",
        ["model.lora.enabled=true", "train.lr=1e-2"],
        plant=alpha_edited,
    ),
    Fault(
        "bits_flipped",
        "a block of the only checkpoint is another one",
        {"bad_checkpoint", "ckpt_torn"},
        "dpo",
        plant=bits_flipped,
    ),
    Fault(
        "rotated_away",
        "six steps after a resume are missing in the record",
        {"resume_gap"},
        "rloo",
        plant=stopped_at_12,
        after=rotated_away,
    ),
]
