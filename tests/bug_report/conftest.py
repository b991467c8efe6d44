from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oxrl_core.runs.records import write_json
from oxrl_core.runs.rundir import RunDir

sys.path.insert(0, str(Path(__file__).parent))  # github_server.py, for the tests beside it

from github_server import REPO, GitHub

ROOT = Path(__file__).parents[2]
OURS = ROOT / "oxrl_core" / "train" / "credit.py"
MakeRun = Callable[..., RunDir]


def traceback_of(*frames: tuple[str, str], error: str = "TypeError: unsupported operand") -> str:
    lines = ["Traceback (most recent call last):"]
    for number, (path, function) in enumerate(frames, start=11):
        lines += [f'  File "{path}", line {number}, in {function}', f"    {function}(secret_of_line)"]
    return "\n".join([*lines, error]) + "\n"


@pytest.fixture
def failed_run(oxrl_home_of_the_test: Path) -> MakeRun:
    """Makes a run that ended with an error; by default one that our own code raised."""

    def make(
        code: str = "TypeError",
        what: str = "TypeError: unsupported operand",
        frames: tuple[tuple[str, str], ...] = ((str(ROOT / "oxrl_core/driver.py"), "main"), (str(OURS), "give_credit")),
        log: str = "",
        config: str = "train: {lr: 0.001}\nrollout: {engine: vllm}\n",
    ) -> RunDir:
        spec = {"kind": "rl", "command": ["true"]}
        run = RunDir.create_from_parts(oxrl_home_of_the_test, "broken", config, spec)
        text = traceback_of(*frames, error=what) if frames else ""
        (run.logs / "driver.log").write_text(f"step 1\n{log}{text}")
        run.write_progress("drawing", 3, 10)
        run.write_error({"code": code, "what": what, "where": "driver", "next": "mend it", "traceback": text})
        error = {"code": code, "what": what, "where": "driver", "next": "mend it"}
        write_json(run.path / "status.json", {"state": "failed", "phase": "drawing", "exit_code": 1, "error": error})
        return run

    return make


@pytest.fixture
def github_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[GitHub]:
    server = GitHub()
    monkeypatch.setenv("GITHUB_TOKEN", "right")
    yield server
    server.close()


@pytest.fixture
def enabled(github_server: GitHub, oxrl_home_of_the_test: Path) -> GitHub:
    """The operator lets reports go to the server."""
    text = f"enabled: true\nrepo: {REPO}\napi: {github_server.url}\nmax_per_day: 3\n"
    (oxrl_home_of_the_test / "report.yaml").write_text(text)
    return github_server
