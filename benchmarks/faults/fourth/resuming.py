"""Runs that were stopped, and went on as something else."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.faults.define import Fault
from benchmarks.faults.fourth_plants import set_in
from benchmarks.faults.patches import trained_until
from oxrl_core.runs.rundir import RunDir


def rank_halved(run: Path) -> None:
    """Somebody halves the rank of the adapters between two starts."""
    import yaml

    trained_until(run, 15)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"]["lora"]["rank"] = 8
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def beta_raised(run: Path) -> None:
    """Somebody raises beta fifty times between two starts."""
    trained_until(run, 20)
    set_in(run, "algorithm.beta", 5.0)


def appended_twice(run: RunDir) -> None:
    """What copies records from a node that was lost has appended steps 9 to 15 of an attempt that was given up."""
    path = run.path / "metrics.jsonl"
    lines = path.read_text().splitlines()
    again = [json.loads(line) for line in lines if 9 <= json.loads(line)["step"] <= 15]
    late = [json.dumps({**row, "time": row["time"] + 60, "loss": 1.02 * row["loss"]}) for row in again]
    path.write_text("\n".join([*lines, *late]) + "\n")


def stopped_at_15(run: Path) -> None:
    """The run is stopped after 15 steps and goes on."""
    trained_until(run, 15)


FAULTS = [
    Fault(
        "rank_halved_at_resume",
        "the adapters have another rank after a resume",
        {"bad_checkpoint", "size_mismatch", "wrong_request"},
        "sft",
        ["model.lora.enabled=true", "train.lr=1e-2"],
        plant=rank_halved,
    ),
    Fault(
        "beta_raised_at_resume",
        "beta is fifty times larger after a resume",
        {"resume_jump"},
        "dpo",
        plant=beta_raised,
    ),
    Fault(
        "steps_appended_twice",
        "seven steps stand in the record twice",
        {"resume_gap"},
        "sft",
        plant=stopped_at_15,
        after=appended_twice,
    ),
]
