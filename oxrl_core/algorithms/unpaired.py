"""Losses over single completions, each labeled desirable or undesirable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from oxrl_core.algorithms.base import Fraction, NonNegative, Positive, algorithm

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import Labeled

Baseline = Literal["step", "running"]


def running_baseline(step: Labeled, before: Mapping[str, float], params: Mapping[str, Any]) -> dict[str, float]:
    """The moving average of the step's estimates of KL(policy || reference), under baseline "running"; else nothing.

    The estimates may be negative; only what the loss makes of them is cut at 0, because an average of cut estimates
    would be too high. It starts at the first estimate, not at 0: no warm-up.
    """
    if params["baseline"] != "running" or step.step_mismatched.numel() == 0:
        return dict(before)
    estimate = float(step.step_mismatched.mean().item())
    decay = params["decay"] if "baseline" in before else 0.0
    return {"baseline": decay * before.get("baseline", 0.0) + (1 - decay) * estimate}


@algorithm("kto", paper="arXiv:2402.01306, section 4", running=running_baseline)
def kto(
    labeled: Labeled,
    *,
    beta: Positive = 0.1,
    desirable_weight: NonNegative = 1.0,
    undesirable_weight: NonNegative = 1.0,
    baseline: Baseline = "step",
    decay: Fraction = 0.9,
) -> Tensor:
    """weight (1 - sigmoid(+-beta (log-ratio - z0))), with + and - for desirable and undesirable completions.

    z0 = max(0, mean log-ratio of prompts with completions of other rows) estimates KL(policy || reference) and has no
    gradient: of this step under baseline "step", or its moving average over steps with `decay` under "running". The
    log-ratios of the rows' own completions would estimate it too high. With many more rows of one kind, choose weights
    with desirable_weight n_desirable / (undesirable_weight n_undesirable) between 1 and 4/3.
    """
    if baseline == "running":
        zero_point = max(0.0, labeled.running["baseline"])
    else:
        zero_point = labeled.step_mismatched.mean().clamp(min=0).detach()
    is_desirable = labeled.is_desirable.to(labeled.logratio.dtype)
    weight = desirable_weight * is_desirable + undesirable_weight * (1 - is_desirable)
    advantage = (2 * is_desirable - 1) * (labeled.logratio - zero_point)
    # 1 - sigmoid(x) = sigmoid(-x), which keeps its digits where x is large.
    return weight * (-beta * advantage).sigmoid()
