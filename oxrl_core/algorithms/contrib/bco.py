"""Binary classifier optimisation: a classifier of single completions whose logit is the reward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from oxrl_core.algorithms.arithmetic import log_sigmoid
from oxrl_core.algorithms.base import Positive, algorithm

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import Labeled


def running_shift(step: Labeled, before: Mapping[str, float], params: Mapping[str, Any]) -> dict[str, float]:
    """The reward shift delta, midway between the mean rewards of desirable and undesirable examples of all steps.

    With it the sums and counts that it is made of. The mean of a kind not seen yet is 0, the reward at the reference.
    """
    is_desirable = step.step_is_desirable
    rewards = params["beta"] * step.step_logratio
    seen: dict[str, float] = {}
    means: list[float] = []
    for kind, mask in (("desirable", is_desirable), ("undesirable", ~is_desirable)):
        total = before.get(f"{kind}_sum", 0.0) + float(rewards[mask].sum())
        count = before.get(f"{kind}_count", 0.0) + float(mask.sum())
        seen.update({f"{kind}_sum": total, f"{kind}_count": count})
        means.append(total / max(count, 1.0))
    return {**seen, "delta": sum(means) / 2}


@algorithm("bco", paper="arXiv:2404.04656, section 4, without density ratios", running=running_shift)
def bco(labeled: Labeled, *, beta: Positive = 0.01) -> Tensor:
    """-log sigmoid(+-(beta log-ratio - delta)), with + and - for desirable and undesirable completions.

    The sum of both kinds of loss is an upper bound of DPO's; the shift delta, midway between the mean rewards of both
    kinds so far and without gradient, makes it tight. The paper's weights for kinds with different prompts (UDM) need
    an embedding model, and are not part of this loss.
    """
    shifted = beta * labeled.logratio - labeled.running["delta"]
    return -log_sigmoid(shifted.where(labeled.is_desirable, -shifted))
