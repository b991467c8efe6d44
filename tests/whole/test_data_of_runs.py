"""Runs on faulty data: bad rows are counted and said, or stop it; so does a mask that cannot be right, at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.engine
def test_bad_rows_are_counted_or_stop_a_run_and_a_mask_of_everything_does_before_step_0(tmp_path: Path) -> None:
    lines = [json.dumps({"prompt": f"{number}+1=", "completion": f"{number + 1}"}) for number in range(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join([*lines[:3], "{", *lines[3:]]))
    (tmp_path / "held-out.jsonl").write_text("\n".join([lines[0], "[]"]))
    (tmp_path / "empty.jsonl").write_text(json.dumps({"prompt": "1", "completion": "22"}) + "\n")
    fixed = ["data.eval=[]", "train.steps=2", "train.rows_per_step=4"]
    jobs: list[dict[str, Any]] = [
        {"overrides": [*fixed, f"data.train={tmp_path}/rows.jsonl", f"data.eval={tmp_path}/held-out.jsonl"]},
        {"overrides": [*fixed, f"data.train={tmp_path}/rows.jsonl", "data.strict=true"]},
        {"overrides": [*fixed, f"data.train={tmp_path}/empty.jsonl"]},
    ]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("in_process.py")), str(tmp_path / "home")],
        input=json.dumps([{"recipe": "sft", **job} for job in jobs]),
        capture_output=True,
        text=True,
        timeout=500,
        check=True,
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    kept, strict, masked = (json.loads(line) for line in done.stdout.splitlines())
    run = Path(kept["path"])
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert (last["step"], last["data/bad"]) == (2, 2)
    said = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    (event,) = [event for event in said if event["code"] == "bad_rows"]
    assert "rows.jsonl, line 4: the line is not JSON" in event["message"]
    assert "held-out.jsonl, line 2: the row is no object but list" in event["message"]
    assert "rows.jsonl, line 4: the line is not JSON" in strict["error"]
    assert "the mask covers 100 % of the tokens" in masked["error"]
    assert "1[[22<eos>]]" in masked["error"]
