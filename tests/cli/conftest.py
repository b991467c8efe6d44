from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from oxrl_core.cli.render import AGENT_VARIABLES

REPOSITORY = Path(__file__).parents[2]
COPY3 = {
    "run": {"name": "hello", "backend": "local"},
    "model": {"path": "miniature:chars"},
    "data": {"train": "copy3"},
    "reward": {"name": "positions"},
    "rollout": {"engine": "transformers", "group_size": 4, "max_completion_tokens": 4},
    "train": {"prompts_per_step": 4, "steps": 3, "lr": 1e-3},
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home of runs, and an environment without a coding agent."""
    monkeypatch.setenv("OXRL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "80")
    for name in (*AGENT_VARIABLES, "NO_COLOR", "OXRL_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


@pytest.fixture
def run_id(home: Path) -> str:
    """A run that has taken two of three steps and raised an alert."""
    from oxrl_core.config.load import load_config
    from oxrl_core.runs.rundir import RunDir

    run = RunDir.create(home, load_config(COPY3), "rl")
    for step, reward in enumerate([0.125, 0.25], start=1):
        row = {"step": step, "reward/mean": reward, "loss": 0.0, "tokens_per_second": 1234.5}
        run.append_metrics(row)
        run.write_progress("training", step, 3, row)
    run.append_event("warning", "zero_variance", "9 of 10 groups [all of them] teach nothing")
    (run.logs / "driver.log").write_text("first line\nstep 1 \x1b[31mred\x1b[0m\nlast line\n")
    return run.run_id


@pytest.fixture
def idle_run_id(home: Path) -> str:
    """A run that was created and never started. Whoever writes progress is the driver, so nothing is written here."""
    from oxrl_core.config.load import load_config
    from oxrl_core.runs.rundir import RunDir

    return RunDir.create(home, load_config(COPY3), "rl").run_id


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    import yaml

    path = tmp_path / "hello.yaml"
    path.write_text(yaml.safe_dump(COPY3))
    return path


@pytest.fixture
def oxrl(home: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command in this process: exit code, standard output, standard error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        from oxrl_core.cli import main

        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def spawn(home: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Python in a process of its own, as a person or a script starts it."""

    def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd=REPOSITORY,
            env={**os.environ, **environment},
        )

    return call
