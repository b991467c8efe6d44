"""Programs from npm that know MCP, in a home of their own, with everything switched off that would call out."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MODULES = HERE / ".node" / "node_modules"
BIN = MODULES / ".bin"
QUIET = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_TELEMETRY": "1",
    "DISABLE_AUTOUPDATER": "1",
    "DO_NOT_TRACK": "1",
    "GEMINI_TELEMETRY_ENABLED": "false",
    "GEMINI_CLI_TRUST_WORKSPACE": "true",
    "NO_COLOR": "1",
    "CI": "1",
    # Nothing of these checks needs a network: what tries to leave the machine fails at once instead of being sent.
    "HTTP_PROXY": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "NO_PROXY": "127.0.0.1,localhost",
}
SECONDS = 240.0
SECRETS = ("TOKEN", "KEY", "SECRET", "PASSWORD")

Ran = subprocess.CompletedProcess[str]


@pytest.fixture
def user(tmp_path: Path) -> Path:
    """A person's home with nothing in it."""
    folder = tmp_path / "user"
    folder.mkdir()
    return folder


@pytest.fixture
def node(user: Path, tmp_path: Path) -> Callable[..., Ran]:
    """Runs a program, or a script of a package, in the folder `project`; output and errors come together."""
    project = tmp_path / "project"
    project.mkdir()
    kept = {name: value for name, value in os.environ.items() if not any(word in name for word in SECRETS)}
    environment = {
        **kept,
        **QUIET,
        "HOME": str(user),
        "PATH": os.pathsep.join((str(BIN), str(Path(sys.executable).parent), os.environ["PATH"])),
    }

    def run(program: str, *arguments: str | Path, cwd: Path = project) -> Ran:
        # Two packages of the suite name their program alike: those are called by their script.
        words = [BIN / "node", MODULES / program] if program.endswith(".js") else [BIN / program]
        assert words[-1].exists(), f"{program} is not installed; next: make test-clients"
        return subprocess.run(
            [*map(str, words), *map(str, arguments)],
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    return run
