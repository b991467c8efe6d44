"""The diagnosis as a whole: ranking, overlays that can be loaded, its file, its command, its screen."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oxrl_core import api
from oxrl_core.cli.diagnosis import draw_diagnosis
from oxrl_core.cli.tables import drawn
from oxrl_core.config.load import load_config
from oxrl_core.diagnose.diagnosis import diagnose, override
from oxrl_core.runs.rundir import RunDir

ROOT = Path(__file__).parent.parent.parent
Make = Callable[..., RunDir]
Rows = Callable[..., list[dict[str, Any]]]


def test_the_diagnosis_is_kept_in_the_run_directory(hand_made: Make, rl_rows: Rows) -> None:
    run = hand_made(metrics=rl_rows(lr=1e-12), overrides=["train.lr=1e-12"])
    diagnosis = api.diagnose_run(run.run_id, home=run.home)
    kept = json.loads((run.path / "diagnosis.json").read_text())
    assert kept["findings"][0]["cause"] == "lr_too_low" == diagnosis.findings[0].cause
    assert diagnosis.path == str(run.path / "diagnosis.json")


def test_an_overlay_is_what_load_config_takes_and_stands_in_the_command(hand_made: Make, rl_rows: Rows) -> None:
    run = hand_made(metrics=rl_rows(lr=1e-12), overrides=["train.lr=1e-12"])
    diagnosis = diagnose(run)
    (change,) = diagnosis.findings[0].overlay
    assert (change.path, change.old, change.new, change.risk) == ("train.lr", 1e-12, 1e-3, "A")
    loaded = load_config(run.path / "config.yaml", [override(change.path, change.new)])
    assert loaded.config.train.lr == 1e-3
    assert diagnosis.command == f"oxrl train {run.path}/config.yaml train.lr=0.001"


def test_it_forks_from_a_checkpoint_before_the_fault(hand_made: Make, rl_rows: Rows) -> None:
    run = hand_made(metrics=rl_rows(loss=lambda step: float("nan") if step == 25 else -0.1))
    for step in (10, 20, 30):
        (run.checkpoints / f"step_{step:08d}").mkdir()
        (run.checkpoints / f"step_{step:08d}" / "manifest.json").write_text("{}")
    assert diagnose(run).command == f"oxrl fork {run.run_id} --step 20 train.lr=0.0005"


def test_a_patch_that_contradicts_the_rest_is_not_offered(hand_made: Make, rl_rows: Rows) -> None:
    # A constant schedule has no floor: both change together, or the configuration could not be loaded.
    settings = ["train.lr_schedule=linear", "train.lr_floor=0.001"]
    rows = rl_rows(lr=lambda step: 1e-3 if step < 10 else 1e-6)
    (finding,) = diagnose(hand_made(overrides=settings, metrics=rows)).findings
    assert [(change.path, change.new) for change in finding.overlay] == [
        ("train.lr_schedule", "constant"),
        ("train.lr_floor", 0.0),
    ]


def test_what_a_cause_explains_is_named_there_and_not_listed(hand_made: Make, rl_rows: Rows) -> None:
    rows = rl_rows(
        loss=lambda step: float("nan") if step >= 12 else -0.1, grad_norm=lambda step: 0.0 if step > 12 else 0.4
    )
    (finding,) = diagnose(hand_made(metrics=rows)).findings
    assert finding.cause == "not_finite" and finding.explains == ["gradient_dead"]


def test_a_tripwire_and_a_detector_make_one_finding(hand_made: Make, rl_rows: Rows) -> None:
    event = {
        "level": "error", "code": "logprob_gap", "message": "they disagree", "metric": "gap/mean", "value": 0.4,
        "limit": 0.05, "samples": ["7/p/3/1"], "step": 7,
    }  # fmt: skip
    alone = diagnose(hand_made(metrics=rl_rows(gap__mean=0.3))).findings[0]
    both = diagnose(hand_made(metrics=rl_rows(gap__mean=0.3), events=[event]))
    assert [finding.cause for finding in both.findings] == ["logprob_gap"]
    assert both.findings[0].confidence > alone.confidence
    assert any(item.samples == ["7/p/3/1"] for item in both.findings[0].evidence)


def test_a_read_only_directory_does_not_keep_the_answer_back(hand_made: Make, rl_rows: Rows) -> None:
    run = hand_made(metrics=rl_rows(lr=1e-12))
    (run.path / "diagnosis.json").mkdir()  # a file cannot take its place, whoever asks
    diagnosis = diagnose(run)
    assert diagnosis.findings[0].cause == "lr_too_low"
    assert any("diagnosis.json" in text for text in diagnosis.missing)


def test_the_screen_is_eighty_columns_and_one_page(
    hand_made: Make, rl_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    rows = rl_rows(lr=1e-12, reward__errors=0.4, gap__mean=0.3, seconds=lambda step: 9.0 if step > 22 else 1.0)
    screen = drawn(draw_diagnosis(diagnose(hand_made(metrics=rows))), color=False)
    lines = screen.splitlines()
    assert max(len(line) for line in lines) <= 80
    assert len(lines) <= 40
    assert "logprob_gap" in screen


def test_the_command_speaks_json(hand_made: Make, rl_rows: Rows) -> None:
    run = hand_made(metrics=rl_rows(lr=1e-12))
    done = subprocess.run(
        [sys.executable, "-m", "oxrl", "diagnose", run.run_id, "--json"],
        cwd=ROOT, env={"OXRL_HOME": str(run.home), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["findings"][0]["cause"] == "lr_too_low"


def test_what_is_quoted_holds_no_secrets(
    hand_made: Make, rl_rows: Rows, recorded: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "correct-horse-battery")
    token = "hf_" + "a1B2" * 8
    log = f"torch.OutOfMemoryError: CUDA out of memory. token={token} \x1b[31mcorrect-horse-battery\u202e\n"
    rollouts = {
        step: [
            recorded(
                step,
                prompt,
                completion_text=token if step > 5 else f"{step} {prompt}",
                completion_token_ids=[4, 2] if step > 5 else [step, prompt],
                score=float(step > 5),
            )
            for prompt in range(12)
        ]
        for step in range(1, 16)
    }
    status = {"state": "failed", "error": {"code": "Exited", "what": "it said nothing"}, "exit_code": 1}
    run = hand_made(metrics=rl_rows(), rollouts=rollouts, status=status, log=log)
    diagnosis = api.diagnose_run(run.run_id, home=run.home)
    screen = drawn(draw_diagnosis(diagnosis), color=False)
    assert {"cuda_oom", "constant_answer"} <= {finding.cause for finding in diagnosis.findings}
    for text in (diagnosis.model_dump_json(), (run.path / "diagnosis.json").read_text(), screen):
        assert "[redacted]" in text
        for secret in (token, "correct-horse-battery", "\u202e", "\\u202e", "\x1b", "\\u001b"):
            assert secret not in text
