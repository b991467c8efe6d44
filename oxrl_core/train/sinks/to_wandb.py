"""Weights & Biases: online where there is a key ($WANDB_API_KEY or `wandb login`), else offline in the run directory.

What was written offline is sent by `wandb sync <run>/wandb/offline-run-*`.
"""

from __future__ import annotations

import netrc
import os
from collections.abc import Mapping

import wandb

from oxrl_core.train.sinks import RunFacts

START_SECONDS = 60


def open_sink(facts: RunFacts) -> WandbSink:
    """The run in the project; the same run again goes on in its place."""
    return WandbSink(facts)


class WandbSink:
    """One run of a W&B project."""

    def __init__(self, facts: RunFacts) -> None:
        # The run's output, code and machine stay here: only metrics and the masked configuration go out.
        settings = wandb.Settings(
            console="off",
            save_code=False,
            disable_git=True,
            silent=True,
            init_timeout=START_SECONDS,
            x_disable_stats=True,
            x_disable_meta=True,
        )
        self._run = wandb.init(
            project=facts.project,
            id=facts.run_id,
            name=facts.run_id,
            dir=str(facts.path),
            config=dict(facts.config),
            mode=os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline"),
            resume="allow",
            settings=settings,
        )

    def write(self, step: int, seconds: float, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics) | {"_timestamp": seconds}, step=step)

    def close(self) -> None:
        self._run.finish()


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
