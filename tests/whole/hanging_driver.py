"""The driver of a run in which a call sleeps for ever, once: `hanging_driver.py RUN_DIR generating|saving`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from oxrl_core import driver
from oxrl_core.engine.checkpoint import CheckpointStore
from oxrl_core.rollout.hf_worker import TransformersWorker

# What sleeps, and after how many calls that do not: a phase that was never gone through has the time of a start.
CALLS = {"generating": (TransformersWorker, "generate", 4), "saving": (CheckpointStore, "finish", 2)}


def hang_once(marker: Path, owner: type, name: str, quick_calls: int) -> None:
    """From now on a later call of the method sleeps for ever; where the marker is there, one has slept before."""
    original, calls = getattr(owner, name), []

    def stand_still_here(self: Any, *arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) > quick_calls and not marker.exists():
            marker.touch()
            time.sleep(600)
        return original(self, *arguments, **options)

    setattr(owner, name, stand_still_here)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    hang_once(folder / "hung", *CALLS[sys.argv[2]])
    sys.exit(driver.main(["--run-dir", str(folder)]))
