"""The learning rate as a pure function of the step: nothing to save, nothing to resume."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oxrl_core.config.schema import TrainConfig


def learning_rate(step: int, train: TrainConfig, total_steps: int) -> float:
    """Learning rate of optimizer step `step`, counted from 0.

    Warm-up step i of n takes (i + 1) / n of the peak: no step is wasted at 0. A falling schedule would reach the floor
    at step `total_steps`, which is one past the last.
    """
    if step < train.warmup_steps:
        return train.lr * (step + 1) / train.warmup_steps
    if train.lr_schedule == "constant":
        return train.lr
    progress = min(1.0, (step - train.warmup_steps) / max(1, total_steps - train.warmup_steps))
    remaining = 1 - progress if train.lr_schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return train.lr * (train.lr_floor + (1 - train.lr_floor) * remaining)
