"""Three faults planted into true runs; the whole suite is `python -m benchmarks.faults`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PLANTED = {"lr_1e-10_sft": "lr_too_low", "pairs_swapped": "learns_backwards", "reward_errors_all": "verifier_errors"}


@pytest.mark.engine
def test_planted_faults_are_named_first(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.faults", "--only", ",".join(PLANTED), "--no-clean",
         "--home", str(tmp_path), "--json", str(tmp_path / "report.json")],
        cwd=ROOT, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    results = {result["name"]: result["found"][0] for result in json.loads((tmp_path / "report.json").read_text())}
    assert results == PLANTED
