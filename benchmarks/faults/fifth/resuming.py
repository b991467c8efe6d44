"""Runs that were stopped, and went on as something else or not at all."""

from __future__ import annotations

from pathlib import Path

from benchmarks.faults.define import Fault
from benchmarks.faults.fifth_plants import edit_config
from benchmarks.faults.fourth_plants import GENTLE, half_taught, set_in
from benchmarks.faults.patches import trained_until


def temperature_edited(run: Path) -> None:
    """Somebody tries a higher temperature between two starts."""
    half_taught(run)
    trained_until(run, 14)
    set_in(run, "rollout.temperature", 3.0)


def alpha_edited(run: Path) -> None:
    """Somebody multiplies alpha by thirty-two between two starts."""
    trained_until(run, 22)
    edit_config(run, lambda config: config["model"]["lora"].update(alpha=1024))


def bits_flipped(run: Path) -> None:
    """A disk has lost a block in the middle of the weights."""
    trained_until(run, 10)
    for weights in (run / "checkpoints").glob("*/**/*.safetensors"):
        content = bytearray(weights.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 4096] = bytes(255 - byte for byte in content[middle : middle + 4096])
        weights.write_bytes(content)


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
        "the adapters count thirty-two times as much after a resume",
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
]
