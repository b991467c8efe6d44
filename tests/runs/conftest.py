"""Runs of small driver scripts: the supervisor is the real one, only the training is another program."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from oxrl_core.runs import launch, process
from oxrl_core.runs.rundir import RunDir

sys.path.insert(0, str(Path(__file__).parent))  # run_trees.py, for the tests beside it

MakeRun = Callable[..., RunDir]


@pytest.fixture
def make_run(tmp_path: Path) -> Iterator[MakeRun]:
    """Makes a run whose driver is the given Python text; whatever of it is alive after the test is ended."""
    made: list[RunDir] = []

    def make(driver: str = "", name: str = "test", grace: float = 1.0, **spec: Any) -> RunDir:
        script = tmp_path / f"driver_{len(made)}.py"
        script.write_text(driver)
        spec = {"kind": "rl", "command": [sys.executable, str(script)], "stop_grace_seconds": grace, **spec}
        run = RunDir.create_from_parts(tmp_path / "home", name, "run: {}\n", spec)
        made.append(run)
        return run

    yield make
    for run in made:
        if (run.path / "status.json").exists():
            launch.stop(run, "end of the test", grace=0.0)
        assert process.members_by_run().get(run.run_id, []) == []
