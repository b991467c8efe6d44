"""Run directories written by hand, with the files of a true run and literal numbers in them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oxrl_core.config.load import config_to_yaml, load_config
from oxrl_core.runs.rundir import RunDir

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from evals.planting import rows_of  # (the path comes first)

MakeRun = Callable[..., RunDir]


@pytest.fixture
def hand_made(tmp_path: Path) -> MakeRun:
    """Makes a run directory from rows of metrics, events, rollouts, a last word and a log."""

    def make(
        recipe: str = "sgrpo",
        overrides: list[str] | None = None,
        metrics: list[dict[str, Any]] | None = None,
        events: list[dict[str, Any]] | None = None,
        rollouts: dict[int, list[dict[str, Any]]] | None = None,
        status: dict[str, Any] | None = None,
        log: str = "",
    ) -> RunDir:
        loaded = load_config(recipe, overrides or [])
        run = RunDir.create_from_parts(
            tmp_path / "home", recipe, config_to_yaml(loaded.config), {"kind": "rl", "config_hash": "0"}
        )
        for row in metrics or []:
            run.append_metrics(row)
        for event in events or []:
            run.append_event(**event)
        for step, rows in (rollouts or {}).items():
            pq.write_table(pa.Table.from_pylist(rows), run.rollouts / f"step-{step:08d}.parquet")
        record = {"state": "finished", "started_at": 1.0, "ended_at": 2.0, "exit_code": 0} | (status or {})
        (run.path / "status.json").write_text(json.dumps(record))
        if log:
            (run.logs / "driver.log").write_text(log)
        return run

    return make


def rollout(step: int, prompt: int = 0, index: int = 0, **fields: Any) -> dict[str, Any]:
    """One recorded rollout: prompt "7>", completion "7", score 1."""
    row = {
        "step": step,
        "prompt_id": f"p/{prompt}",
        "prompt_text": f"{prompt}>",
        "completion_token_ids": [7, 1],
        "completion_text": "7",
        "rollout_logprobs": [-1.0, -1.0],
        "advantages": [0.0, 0.0],
        "score": 1.0,
        "score_status": "ok",
        "score_parts": "{}",
        "finish_reason": "stop",
        "policy_version": step - 1,
        "sample_index": index,
    }
    return row | fields


@pytest.fixture
def recorded() -> Callable[..., dict[str, Any]]:
    return rollout


@pytest.fixture
def rl_rows() -> Callable[..., list[dict[str, Any]]]:
    """Rows of a healthy RL run of 30 steps; a keyword is a metric: a value, or a function of the step."""
    return rows_of
