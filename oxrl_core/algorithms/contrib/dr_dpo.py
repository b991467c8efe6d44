"""Dr. DPO: DPO that trusts the pairs of a step as far as the policy agrees with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oxrl_core.algorithms.arithmetic import log_sigmoid
from oxrl_core.algorithms.base import Positive, algorithm

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import StepPairs


@algorithm("dr_dpo", paper="arXiv:2407.07880, the loss L_Dr.DPO")
def dr_dpo(pairs: StepPairs, *, beta: Positive = 0.1, beta_prime: Positive = 1.0) -> Tensor:
    """-beta_prime log mean exp(log sigmoid(beta gap) / beta_prime), the mean over all pairs of the step.

    Every pair has this one value. Its gradient is that of DPO times a weight, the softmax of log sigmoid(beta gap) /
    beta_prime over the step: pairs on the wrong side, which may be labeled the wrong way round, weigh less. A large
    `beta_prime` is DPO.
    """
    agreement = log_sigmoid(beta * pairs.step_gap)
    best = agreement.amax()
    # In terms of what is missing to the best pair, a large beta_prime does not multiply a rounding error.
    mean_shortfall = ((agreement - best) / beta_prime).expm1().mean()
    step_value = -best - beta_prime * mean_shortfall.log1p()
    weights = len(agreement) * (agreement / beta_prime).softmax(0)[pairs.index]
    values = -log_sigmoid(beta * pairs.gap)
    # The trainer averages over the step's pairs: mean(value) is the loss, mean(gradient) the weighted sum of DPO's.
    return step_value + weights * (values - values.detach())
