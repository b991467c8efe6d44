"""What is another one after a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from benchmarks.faults.define import Fault
from benchmarks.faults.patches import trained_until


def edited(run: Path, section: str, **values: Any) -> None:
    """Somebody opens the run's configuration, and changes values between two starts."""
    path = run / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config[section] |= values
    path.write_text(yaml.safe_dump(config, sort_keys=False))


def entropy_bonus(run: Path) -> None:
    """The bonus becomes two hundred times as large."""
    trained_until(run, 12)
    edited(run, "algorithm", entropy_coef=20.0)


def stricter_verifier(run: Path) -> None:
    """Part marks are no longer given, and hardly a completion is right as a whole."""
    trained_until(run, 12)
    edited(run, "reward", name="exact")


def columns(run: Path) -> None:
    """Chosen and rejected change places."""
    trained_until(run, 20)
    path = run / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["data"]["train"][0] |= {"chosen_column": "rejected", "rejected_column": "chosen"}
    path.write_text(yaml.safe_dump(config, sort_keys=False))


FAULTS = [
    # pain 9: a resume with other values
    Fault(
        "entropy_bonus_edited_at_resume",
        "after a resume the entropy bonus is two hundred times as large",
        {"resume_jump", "entropy_high"},
        "rloo",
        [],
        plant=entropy_bonus,
    ),
    # pain 9, open-r1#450: the reward of another version of the code
    Fault(
        "stricter_verifier_at_resume",
        "after a resume the verifier gives no part marks",
        {"resume_jump"},
        "sgrpo",
        [],
        plant=stricter_verifier,
    ),
    # pain 9: the script of the second start reads the columns the other way round
    Fault(
        "columns_swapped_at_resume",
        "after a resume chosen and rejected have changed places",
        {"resume_jump", "learns_backwards"},
        "dpo",
        ["train.steps=60"],
        plant=columns,
    ),
]
