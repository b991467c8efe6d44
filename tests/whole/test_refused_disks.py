"""Disks that are full, read-only or broken, for real: each is a small file system that a child process mounts.

A run that meets one says what, where and what next, keeps its last checkpoint whole, and ends afterwards like a run
that met none; what only reads goes on reading.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("refused_disks.py")
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]
MOUNT = [*NAMESPACE, "mount", "-t", "tmpfs", "none", "/mnt"]
MAY_MOUNT = bool(shutil.which("unshare")) and not subprocess.run(MOUNT, capture_output=True, check=False).returncode

pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not MAY_MOUNT, reason="this machine gives no mount namespace; tests/train/test_saver.py limits files instead"
    ),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of each run."""
    command = [*NAMESPACE, sys.executable, str(SCRIPT), str(tmp_path_factory.mktemp("disks"))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


FULL, LOCKED, BROKEN = "the disk is full", "Read-only file system", "input/output error"
SAVE = "the checkpoint could not be saved: "


@pytest.mark.parametrize(
    ("run", "code", "what", "advice", "newest"),
    [
        ("sft checkpoints full", "MachineError", SAVE + FULL, "free some space", 1),
        ("sft checkpoints locked", "MachineError", LOCKED, "make it writable", 1),
        ("sft checkpoints failing", "MachineError", BROKEN, "dmesg", 1),
        ("sft . full", "MachineError", FULL, "free some space", 1),
        # In the background: the save of step 1 may be on its way as the trouble begins, or have arrived.
        ("background checkpoints full", "MachineError", SAVE + FULL, "free some space", 0),
        ("background checkpoints failing", "MachineError", BROKEN, "dmesg", 0),
        # A checkpoint is not committed before the record of its steps is.
        ("sgrpo rollouts full", "RecordError", "rollouts of step 2 could not be written", "free some space", 1),
        ("sgrpo rollouts locked", "RecordError", LOCKED, "mend the folder and resume", 1),
    ],
)
def test_a_run_says_what_stopped_it_and_goes_on_when_that_is_over(
    found: dict[str, Any], run: str, code: str, what: str, advice: str, newest: int
) -> None:
    met = found[run]
    error = met["error"]
    assert error["code"] == code
    assert what in error["what"]
    assert run.split()[1] in error["where"]
    assert advice in error["next"]
    assert met["newest"] in ({"step_00000001"} if newest else {"step_00000001", ""})
    assert met["end"] == found["undisturbed"][run.split()[0]]
    assert met["end"]["steps"] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("trouble", ["full", "failing"])
def test_a_save_in_the_background_that_is_refused_is_an_alert_before_it_is_the_end(
    found: dict[str, Any], trouble: str
) -> None:
    alerts = found[f"background checkpoints {trouble}"]["alerts"]
    assert any(alert.startswith("save_failed: ") for alert in alerts)


@pytest.mark.parametrize(("trouble", "what"), [("full", FULL), ("locked", LOCKED)])
def test_a_start_on_a_disk_that_takes_nothing_says_so(found: dict[str, Any], trouble: str, what: str) -> None:
    met = found[f"start {trouble}"]
    assert met["error"]["code"] == "2"
    assert what in met["error"]["said"]
    assert "  next: " in met["error"]["said"]
    assert met["end"] == found["undisturbed"]["sft"]


@pytest.mark.parametrize("trouble", ["full", "locked"])
def test_a_home_that_takes_nothing_is_read_as_ever_and_refuses_the_rest_in_words(
    found: dict[str, Any], trouble: str
) -> None:
    answers = found[f"looked at {trouble}"]
    assert answers["listed"] == 2
    for name in ("get", "list", "logs", "metrics", "rollouts", "diagnose", "compare", "watch", "rebuild", "stop ended"):
        assert "Error" not in answers[name], (name, answers[name])
    for name in ("report", "resume", "launch by key", "replay"):
        assert answers[name].startswith("MachineError: "), (name, answers[name])
        assert "No space left" in answers[name] or FULL in answers[name] or LOCKED in answers[name], answers[name]
    assert "--out FILE" in answers["report"]


def test_a_supervisor_waits_with_the_last_word_until_there_is_room(found: dict[str, Any]) -> None:
    run = found["supervised"]
    assert run["meanwhile"] in ("starting", "running")
    assert run["state"] == "failed"
    assert run["error"]["what"] == FULL, "although its log had no room for that"
    assert "then oxrl run resume" in run["error"]["next"]
