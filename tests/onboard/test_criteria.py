"""The criteria of a verification, on run directories with literal numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oxrl_core.config.load import config_to_yaml, load_config
from oxrl_core.runs.rundir import RunDir
from swarm.onboard.criteria import failed, judge

Make = Callable[..., RunDir]
HEALTHY: dict[str, Any] = {
    "loss": 0.01, "grad_norm": 1.2, "reward/mean": 0.4, "reward/std": 0.1, "gap/mean": 1e-7, "sync/fingerprint": 0.0,
    "mask/coverage": 0.4,
}  # fmt: skip


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def made(steps: int = 6, state: str = "finished", **changes: Any) -> RunDir:
        loaded = load_config("sgrpo", ["train.steps=6", "model.precision=float32"])
        run = RunDir.create_from_parts(tmp_path, "run", config_to_yaml(loaded.config), {"kind": "rl"})
        for step in range(1, steps + 1):
            row = {**HEALTHY, "step": step, "reward/mean": 0.4 + 0.01 * step}
            run.append_metrics({**row, **{name.replace("__", "/"): value for name, value in changes.items()}})
        (run.path / "status.json").write_text(json.dumps({"state": state, "started_at": 1.0, "ended_at": 2.0}))
        return run

    return made


def names(run: RunDir) -> list[str]:
    return [text.split(":")[0] for text in failed(judge(run, reload=False))]


def test_a_healthy_run_meets_them_all(make: Make) -> None:
    assert names(make()) == []


@pytest.mark.parametrize(
    ("fault", "criterion"),
    [
        ({"steps": 5}, "all_steps"),
        ({"state": "failed"}, "all_steps"),
        ({"loss": float("nan")}, "finite_loss"),
        ({"gap__mean": 2e-4}, "logprob_gap"),  # the limit of float32 is 1e-4
        ({"sync__fingerprint": 0.01}, "sampler_agreement"),
        ({"mask__coverage": 1.0}, "mask_coverage"),
        ({"mask__coverage": 0.0}, "mask_coverage"),
        ({"reward__std": 0.0}, "reward"),  # every group agrees: nothing was learned
        ({"grad_norm": 0.0}, "reward"),
    ],
)
def test_one_fault_fails_one_criterion(make: Make, fault: dict[str, Any], criterion: str) -> None:
    assert names(make(**fault)) == [criterion]


def test_a_reward_that_is_always_one_is_no_verified_run(make: Make) -> None:
    assert names(make(reward__mean=1.0, reward__std=0.0)) == ["reward"]


def test_every_criterion_says_where_its_evidence_stands(make: Make) -> None:
    for one in judge(make(), reload=False):
        assert one.limit and one.value and one.evidence
