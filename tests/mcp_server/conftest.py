"""Runs of a small driver under the real supervisor."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oxrl_core import api
from oxrl_core.config.load import load_config
from oxrl_core.runs import launch
from oxrl_core.runs.rundir import RunDir

DRIVER = """
    import os, signal, sys, time
    from pathlib import Path
    from oxrl_core.runs.rundir import RunDir

    steps, seconds, fail = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3] == "fail"
    run = RunDir(Path(os.environ["OXRL_HOME"]) / "runs" / os.environ["OXRL_RUN_ID"])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    run.write_progress("loading", 0, steps)
    print("the token is", "hf_" + "zyxw9876" * 4, flush=True)
    for step in range(1, steps + 1):
        row = {"step": step, "reward/mean": step / steps, "loss": 0.123456789 * step, "lr": 1e-6, "seconds": seconds}
        if step in (1, steps):
            row["eval/reward"] = 0.1 if step == 1 else 0.9
        run.append_metrics(row)
        run.write_progress("training", step, steps, row)
        print(f"step {step} of {steps}", flush=True)
        time.sleep(seconds)
    if fail:
        error = {"code": "NumericsError", "what": "the loss is not finite", "where": "step 3", "next": "lower train.lr"}
        run.write_error(error)
        sys.exit(1)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of its own; every run that a test leaves behind is stopped."""
    folder = tmp_path / "home"
    monkeypatch.setenv("OXRL_HOME", str(folder))
    yield folder
    for view in api.list_runs(state="active", home=folder).runs:
        api.stop_run(view.run_id, reason="the test has ended", force=True, home=folder)


@pytest.fixture
def start(home: Path) -> Callable[..., RunDir]:
    """Starts a run of the small driver."""
    program = home.parent / "driver.py"
    program.write_text(textwrap.dedent(DRIVER), encoding="utf-8")

    def go(steps: int = 3, seconds: float = 0.02, ends: str = "well") -> RunDir:
        loaded = load_config(
            {
                "run": {"name": "little", "stop_grace_seconds": 2},
                "model": {"path": "miniature:chars"},
                "data": {"train": "reverse3"},
            }
        )
        run = RunDir.create(home, loaded, "rl", command=[sys.executable, str(program), str(steps), str(seconds), ends])
        launch.launch(run)
        return run

    return go
