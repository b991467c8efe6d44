"""Before anything is started, the reward is tried on the references of its own rows, and the run says how that went."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from oxrl_core.rewards.sandbox.fast import interpreter_version

REPOSITORY = Path(__file__).parents[2]
BEFORE_RAY = """
import json, os, sys
from pathlib import Path
from oxrl_core.build import build_rl
from oxrl_core.config.load import load_config
from oxrl_core.errors import RewardError
from oxrl_core.runs.rundir import RunDir
from oxrl_core.types import Progress
loaded = load_config(sys.argv[1], sys.argv[3:])
run = RunDir.create(Path(sys.argv[2]), loaded, kind="test")
try:
    build_rl(run.config(), run, Progress())
except RewardError as error:
    print(json.dumps([run.config().run.backend, error.what, error.where, "ray" in sys.modules]))
"""


def rows(path: Path, *answers: str) -> str:
    path.write_text("".join(json.dumps({"prompt": f"{answer}=", "answer": answer}) + "\n" for answer in answers))
    return f"data.train={path}"


def test_a_reference_that_is_rejected_ends_a_run_before_ray_is_imported(tmp_path: Path) -> None:
    overrides = [rows(tmp_path / "rows.jsonl", "1", "two"), "reward.name=gsm8k", "data.eval=[]", "run.backend=ray"]
    done = subprocess.run(
        [sys.executable, "-c", BEFORE_RAY, "sgrpo", str(tmp_path / "home"), *overrides],
        capture_output=True, text=True, timeout=120, cwd=REPOSITORY, check=True,
    )  # fmt: skip
    backend, what, where, has_ray = json.loads(done.stdout.splitlines()[-1])
    assert backend == "ray" and "rejects the reference of its own row" in what and where.endswith("1")
    assert has_ray is False


@pytest.mark.engine
def test_a_self_test_leaves_an_event_with_what_the_verdicts_rest_on_or_what_speaks_against_them(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    tests = json.dumps([{"function": "f", "args": [2], "expected": 4}])
    lines = [{"prompt": f"{n}2", "tests": tests, "code": "def f(n): return n * n"} for n in range(3)]
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"prompt": "42", "tests": tests}]))
    reward = tmp_path / "reversed.py"
    reward.write_text("def distance(rollout):\n    return float(rollout.text != rollout.prompt.answer)\n")
    numbers = rows(tmp_path / "numbers.jsonl", *(str(number) for number in range(16)))
    short = ["data.eval=[]", "train.steps=1"]
    jobs = [
        {"recipe": "sgrpo", "overrides": [f"data.train={path}", *short, "reward.name=code"]},
        {"recipe": "sgrpo", "overrides": [numbers, *short, f"reward.name={reward}:distance"]},
    ]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("in_process.py")), str(tmp_path / "home")],
        input=json.dumps(jobs),
        capture_output=True, text=True, timeout=500, check=True, cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert all("path" in result for result in results), results
    of_code, of_own = (
        {event["code"]: event for event in map(json.loads, (Path(result["path"]) / "events.jsonl").open())}
        for result in results
    )
    event = of_code["self_test"]
    assert (event["level"], event["reward"], event["rows"], event["skipped"]) == ("info", "code", 3, 1)
    assert 0 < event["seconds"] < 60
    held = event["rests_on"]["code"]
    assert held.partition(" ")[0] in ("strong", "standard", "basic")
    assert f"monty {interpreter_version()}" in held if interpreter_version() else "no interpreter" in held
    assert "verifier_rejects_references" not in of_code
    doubt = of_own["verifier_rejects_references"]
    assert (doubt["level"], doubt["step"]) == ("warning", 0)
    assert "pays the references of 8 of 8 rows" in doubt["message"] and "less than those of other" in doubt["message"]
