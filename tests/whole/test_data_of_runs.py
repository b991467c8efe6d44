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
    nothing = [{"prompt": "1", "completion": ""}, {"prompt": "2"}, {"prompt": "", "completion": "1"}]
    no_token = {"prompt": "3", "completion": "<eos>"}  # only its tokenizer can tell
    gaps = [*lines[:2], *map(json.dumps, [*nothing, no_token]), *lines[2:4]]
    (tmp_path / "gaps.jsonl").write_text("\n".join(gaps))
    (tmp_path / "nothing.jsonl").write_text("\n".join(map(json.dumps, nothing[:2])))
    pair = {"prompt": "1+1=", "chosen": "2", "rejected": "3"}
    pairs = [pair, pair | {"chosen": ""}, pair | {"rejected": None}, pair | {"prompt": "2+1=", "chosen": "3 "}]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    (tmp_path / "held-out.jsonl").write_text("\n".join([lines[0], "[]"]))
    (tmp_path / "empty.jsonl").write_text(json.dumps({"prompt": "1", "completion": "22"}) + "\n")
    fixed = ["data.eval=[]", "train.steps=2", "train.rows_per_step=4"]
    jobs: list[dict[str, Any]] = [
        {"overrides": [*fixed, f"data.train={tmp_path}/rows.jsonl", f"data.eval={tmp_path}/held-out.jsonl"]},
        {"overrides": [*fixed, f"data.train={tmp_path}/rows.jsonl", "data.strict=true"]},
        {"overrides": [*fixed, f"data.train={tmp_path}/empty.jsonl"]},
        {"overrides": [*fixed, f"data.train={tmp_path}/gaps.jsonl", f"data.eval={tmp_path}/gaps.jsonl"]},
        {"overrides": [*fixed, f"data.train={tmp_path}/nothing.jsonl"]},
        {"recipe": "dpo", "overrides": [*fixed, f"data.train={tmp_path}/pairs.jsonl"]},
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
    kept, strict, masked, gapped, none_left, of_pairs = (json.loads(line) for line in done.stdout.splitlines())
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
    # Rows with nothing to learn from are no other: they are left out, counted and named by their lines.
    last, events = last_row_and_events(gapped)
    assert (last["step"], last["data/bad"], last["data/dropped"] > 0) == (2, 6, True)  # of the held-out ones as well
    (bad,) = [event["message"] for event in events if event["code"] == "bad_rows"]
    assert "gaps.jsonl, line 3: the row has no completion to learn from" in bad
    assert "gaps.jsonl, line 4: the row has no completion to learn from" in bad
    assert "gaps.jsonl, line 5: the column 'prompt' holds ''" in bad
    (dropped,) = [event["message"] for event in events if event["code"] == "rows_dropped"]
    assert "without a token to learn from: " in dropped and "gaps.jsonl/train/5" in dropped
    assert "none of its 2 rows can be used; the first: the row has no completion" in none_left["error"]
    last, events = last_row_and_events(of_pairs)
    assert (last["step"], last["data/bad"]) == (2, 2)
    (bad,) = [event["message"] for event in events if event["code"] == "bad_rows"]
    assert "pairs.jsonl, line 2: the row has no chosen completion to learn from" in bad
    assert "pairs.jsonl, line 3: the column 'rejected' is missing" in bad


def last_row_and_events(answer: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    assert "error" not in answer, answer["error"]
    rows, events = (
        [json.loads(line) for line in (Path(answer["path"]) / name).read_text().splitlines()]
        for name in ("metrics.jsonl", "events.jsonl")
    )
    return rows[-1], events
