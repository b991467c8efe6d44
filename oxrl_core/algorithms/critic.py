"""The critic's loss. It is no algorithm by itself: `ppo` with the advantage `gae` trains it beside the policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import Values


def value_loss(values: Values, *, value_clip: float) -> Tensor:
    """1/2 max((v - R)^2, (clip(v, V - value_clip, V + value_clip) - R)^2) of every token, (B, T).

    V is the value when the rollouts were measured. Clipped, a value that already moved far towards its return has no
    gradient; one that moved away keeps it (arXiv:2005.12729, section 3, and the implementations since).
    """
    outside = ~values.completion_mask
    present = values.values.masked_fill(outside, 0.0)
    measured = values.old_values.masked_fill(outside, 0.0)
    returns = values.returns.masked_fill(outside, 0.0)
    clipped = present.clamp(measured - value_clip, measured + value_clip)
    return ((present - returns) ** 2).maximum((clipped - returns) ** 2) / 2
