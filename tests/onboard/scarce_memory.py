"""The loss of SGRPO on a device with little memory: a forward pass of many tokens fails as it fails on a GPU."""

from __future__ import annotations

from oxrl_core.algorithms.base import algorithm
from oxrl_core.algorithms.policy_gradient import clipped_surrogate
from oxrl_core.types import Rollouts

ROOM = 600  # tokens of one forward pass, padding included


@algorithm("scarce_memory", paper="none: a device that is too small")
def sgrpo(rollouts: Rollouts, *, clip_low: float = 0.2, clip_high: float = 0.2):
    """Clipped surrogate of every token."""
    if rollouts.logprobs.numel() > ROOM:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
    return clipped_surrogate(rollouts, clip_low=clip_low, clip_high=clip_high, ratio="token")
