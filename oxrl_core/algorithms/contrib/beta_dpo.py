"""DPO whose beta follows the step's data: larger where the pairs are far apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from oxrl_core.algorithms.arithmetic import log_sigmoid
from oxrl_core.algorithms.base import Fraction, NonNegative, Positive, algorithm

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import StepPairs


def running_gap(step: StepPairs, before: Mapping[str, float], params: Mapping[str, Any]) -> dict[str, float]:
    """The moving average of the steps' mean gaps, this step's included; it starts at the first one."""
    if step.step_gap.numel() == 0:
        return dict(before)
    mean = float(step.step_gap.mean())
    momentum = float(params["momentum"])
    return {"gap": momentum * before.get("gap", mean) + (1 - momentum) * mean}


@algorithm("beta_dpo", paper="arXiv:2407.08639, beta of the batch, without data filtering", running=running_gap)
def beta_dpo(
    pairs: StepPairs,
    *,
    beta: Positive = 0.1,
    alpha: NonNegative = 0.6,
    momentum: Fraction = 0.9,
    beta_min: Positive = 1e-3,
) -> Tensor:
    """-log sigmoid(b gap), where b = beta (1 + alpha (mean gap of the step - its moving average)), at least beta_min.

    gap = log-ratio of the chosen - log-ratio of the rejected completion, not yet times beta, as in the authors' code;
    `momentum` is that of the moving average. With alpha 0 it is DPO. The paper also drops a fifth of the pairs at
    random, outliers first: that choice of data is not part of this loss.
    """
    step_beta = beta * (1 + alpha * (pairs.step_gap.mean() - pairs.running["gap"]))
    return -log_sigmoid(step_beta.detach().clamp(min=beta_min) * pairs.gap)
