"""The first line of the README: what it refuses, and how it runs what follows once the environment is there."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose environment is there already, for the profile `train`."""
    for name in ("bootstrap.sh", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, tmp_path / name)
    with (tmp_path / "pyproject.toml").open("rb") as file:
        sums = subprocess.run(["cksum"], stdin=file, capture_output=True, text=True, check=True).stdout
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / ".ready").write_text(f"train {sums}")
    return tmp_path


def bootstrap(folder: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OXRL_PROFILE": "train", **variables}
    return subprocess.run(
        [str(folder / "bootstrap.sh"), *command],
        env=environment, capture_output=True, text=True, timeout=60, cwd=folder.parent,
    )  # fmt: skip


def test_a_ready_environment_is_left_alone_and_what_follows_runs_in_it(checkout: Path) -> None:
    done = bootstrap(checkout, "sh", "-c", 'echo "$PWD"; echo "$PATH"; exit 7')
    folder, path = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (7, "")
    assert Path(folder) == checkout and path.startswith(f"{checkout}/.venv/bin:")
    assert bootstrap(checkout).returncode == 0


def test_bytecode_is_kept_where_the_image_forbids_it(checkout: Path) -> None:
    done = bootstrap(checkout, "sh", "-c", 'echo "${PYTHONDONTWRITEBYTECODE-kept}"', PYTHONDONTWRITEBYTECODE="1")
    assert done.stdout == "kept\n"


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"OXRL_PROFILE": "gpus"}, "OXRL_PROFILE=gpus is not a profile"),
        ({"PYTHON": "python-of-nobody"}, "no 'python-of-nobody' found"),
    ],
)
def test_what_cannot_be_is_refused_with_a_next_step(checkout: Path, variables: dict[str, str], said: str) -> None:
    done = bootstrap(checkout, "true", **variables)
    assert done.returncode == 2 and said in done.stderr and "next: " in done.stderr
