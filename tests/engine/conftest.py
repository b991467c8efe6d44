"""Lets these tests import the script that their rank processes run, and sets the environment that those run in."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from oxrl_core.engine.environment import engine_environment

sys.path.insert(0, str(Path(__file__).parent))
os.environ.update({name: value for name, value in engine_environment().items() if name not in os.environ})


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small model and a teacher for it."""
    from oxrl_core.models.miniature import make_miniature

    folder = tmp_path_factory.mktemp("heads")
    make_miniature("qwen2.5-0.5b-instruct", folder / "model", seed=1)
    make_miniature("qwen2.5-0.5b-instruct", folder / "teacher", seed=2)
    return folder


@pytest.fixture(scope="session")
def head_ranks(folder: Path) -> dict[str, dict]:
    """What one rank did here and two ranks in processes of their own, for every head; two starts serve all tests."""
    from head_jobs import HeadJob
    from start_ranks import run_ranks

    alone = HeadJob(folder, rank=0, world_size=1)
    alone.one_step()
    results: dict[str, dict] = dict(alone.results)
    results |= run_ranks("one_step,together,adapters", folder, 2, "head_jobs.py")
    results["resumed"] = run_ranks("together_resumed", folder, 2, "head_jobs.py")
    return results
