"""Runs that are killed, moved and refused by the disk lose nothing. The full counts are those of benchmarks/."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

pytestmark = pytest.mark.engine


def run_script(script: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)


def test_six_kills_lose_tear_and_change_nothing(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    runs = "sgrpo,dpo in the background"
    done = run_script(ROOT / "benchmarks" / "kills.py", "--kills", 6, "--ray", 0, "--runs", runs, "--report", report)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    counts = json.loads(report.read_text())
    assert counts["kills"] == 6
    assert counts["finished"] >= 2
    assert counts["reads"] > 100
    assert (counts["lost"], counts["torn"], counts["different"], counts["gaps"]) == (0, 0, 0, 0)


def test_the_public_referee_passes_what_it_is_shown(tmp_path: Path) -> None:
    done = run_script(ROOT / "benchmarks" / "checkpoint_chaos.py", "--max-points", 6, "--work", tmp_path / "work")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "PASS: 7" in done.stdout, "six points and the run without a crash"
    for verdict in ("HARD_FAIL", "SILENT_DIVERGENCE", "LOST_WORK"):
        assert f"{verdict}:" not in done.stdout


def test_a_moved_run_and_one_on_a_full_disk_end_as_if_nothing_had_been(tmp_path: Path) -> None:
    done = run_script(Path(__file__).with_name("hard_times.py"), tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    undisturbed = found["undisturbed"]
    assert undisturbed["steps"] == [0, 1, 2, 3, 4]
    assert found["moved"] == undisturbed
    filled = found["filled"]
    assert "the checkpoint could not be saved" in filled["error"]
    assert "free some space, then start the run again: it goes on from step_00000001, which is whole" in filled["error"]
    assert filled["newest"] == "step_00000001"
    assert filled["left"] == ["step_00000001"]
    assert (filled["weights"], filled["steps"]) == (undisturbed["weights"], undisturbed["steps"])
