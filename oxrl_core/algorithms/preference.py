"""Losses over pairs: a chosen and a rejected completion of one prompt.

In all of them chosen and rejected stand for log pi of the whole completion (a sum over its tokens), and a log-ratio is
log pi - log ref.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from oxrl_core.algorithms.arithmetic import log_odds, log_sigmoid
from oxrl_core.algorithms.base import NonNegative, Positive, algorithm

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import Pairs, ReferencedPairs

FlipRate = Annotated[float, Field(ge=0, lt=0.5)]  # at one half the labels say nothing


@algorithm(
    "dpo", paper="arXiv:2305.18290, eq. 7; label_smoothing: Mitchell 2023, 'A note on DPO with noisy preferences'"
)
def dpo(pairs: ReferencedPairs, *, beta: Positive = 0.1, label_smoothing: FlipRate = 0.0) -> Tensor:
    """-log sigmoid(beta gap), where gap = log-ratio of the chosen - log-ratio of the rejected completion.

    Above 0, `label_smoothing` is the share of pairs that are believed to be labeled the wrong way round (cDPO): that
    share of the loss is -log sigmoid(-beta gap), which stops the gap at log((1 - share) / share) / beta. TRL ignores
    the key in its loss_type "sigmoid".
    """
    reward_gap = beta * pairs.gap
    return -(1 - label_smoothing) * log_sigmoid(reward_gap) - label_smoothing * log_sigmoid(-reward_gap)


@algorithm("ipo", paper="arXiv:2310.12036, eq. 17")
def ipo(pairs: ReferencedPairs, *, beta: Positive = 0.1, length_normalized: bool = True) -> Tensor:
    """(gap - 1 / (2 beta))^2, where gap = log-ratio per token of the chosen - that of the rejected completion.

    The paper compares answers that have no length. Per token is what its authors told TRL that they had used, and
    TRL's default: the target 1 / (2 beta) then means the same for short and for long completions. With
    `length_normalized: false` the log-ratios are those of whole completions, as in OpenRLHF.
    """
    if not length_normalized:
        return (pairs.gap - 1 / (2 * beta)) ** 2
    chosen = pairs.chosen_logratio / pairs.chosen_length
    rejected = pairs.rejected_logratio / pairs.rejected_length
    return (chosen - rejected - 1 / (2 * beta)) ** 2


@algorithm("simpo", paper="arXiv:2405.14734, eq. 6")
def simpo(pairs: Pairs, *, beta: Positive = 2.0, gamma: NonNegative = 1.0) -> Tensor:
    """-log sigmoid(beta (chosen / |chosen| - rejected / |rejected|) - gamma), without a reference.

    `gamma` is the margin itself, as in the paper and in TRL; the paper recommends gamma / beta from 0.3 to 1.6 and
    beta from 2 to 10. TRL's own defaults (beta 0.1, gamma 0.5, and an NLL term on top) are not SimPO's.
    """
    return -log_sigmoid(beta * (pairs.chosen_mean - pairs.rejected_mean) - gamma)


@algorithm("orpo", paper="arXiv:2403.07691, eq. 6")
def orpo(pairs: Pairs, *, beta: NonNegative = 0.1) -> Tensor:
    """-chosen / |chosen| - beta log sigmoid(log odds of the chosen - log odds of the rejected), without a reference.

    odds = p / (1 - p) of p = exp(log-prob per token); `beta` is the paper's lambda. The likelihood is that of the
    completion, as in the paper; TRL takes the prompt's tokens into it, and the mean over the batch's tokens.
    """
    log_odds_ratio = log_odds(pairs.chosen_mean) - log_odds(pairs.rejected_mean)
    return -pairs.chosen_mean - beta * log_sigmoid(log_odds_ratio)
