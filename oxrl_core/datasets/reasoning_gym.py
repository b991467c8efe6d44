"""A hundred kinds of puzzle without end (Reasoning Gym, arXiv:2505.24760), through the package of that name."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from oxrl_core.datasets.base import dataset
from oxrl_core.datasets.lazy import Endless
from oxrl_core.errors import ConfigError, MachineError
from oxrl_core.suggest import did_you_mean
from oxrl_core.types import Row


@dataset("reasoning_gym", splits=("train", "eval"))
def reasoning_gym(
    split: str,
    seed: int,
    *,
    task: str,
    options: Mapping[str, Any] | None = None,
    epoch_rows: Annotated[int, Field(ge=1)] = 10_000,
) -> Endless:
    """Puzzles of one `task` of Reasoning Gym (`options`: its own settings). Needs the package reasoning-gym."""
    try:
        library: Any = importlib.import_module("reasoning_gym")
    except ImportError as error:
        raise MachineError(
            "the dataset needs the package reasoning-gym", "reasoning_gym", 'uv pip install "oxrl[reasoning]"'
        ) from error

    def make(index: int) -> Row:
        entry: Any = _create(library, task, _seed_of(split, seed, index), dict(options or {}))[0]
        row: Row = {"prompt": entry["question"], "entry": entry, "task": task}
        return row if entry["answer"] is None else row | {"answer": str(entry["answer"])}

    return Endless(make, epoch_rows)


def _seed_of(split: str, seed: int, index: int) -> int:
    """31 bits, as numpy's generators take them: even for train, odd for eval, so that no puzzle is in both."""
    drawn = int.from_bytes(hashlib.sha256(f"{seed}/{index}".encode()).digest()[:4]) >> 1
    return drawn & ~1 | (split == "eval")


def _create(library: Any, task: str, number: int, options: dict[str, Any]) -> Any:
    """A generator of one row. One for each row: by its seed alone any row can be made, without those before it."""
    try:
        return library.create_dataset(task, size=1, seed=number, **options)
    except (ValueError, TypeError, AssertionError) as error:
        known = list(getattr(importlib.import_module("reasoning_gym.factory"), "DATASETS", {}))
        raise ConfigError(
            f"Reasoning Gym refuses the task {task!r}: {error}.{did_you_mean(task, known)}",
            where="reasoning_gym.task",
            next_step="its gallery names the tasks and their settings",
        ) from error
