"""Preference losses whose pairs hold what the policy drew itself; the arithmetic is DPO's, the data are not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oxrl_core.algorithms.base import Positive, algorithm
from oxrl_core.algorithms.preference import dpo

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import ReferencedPairs


@algorithm("online_dpo", paper="arXiv:2402.04792, algorithm 1", lesson="best_and_worst")
def online_dpo(pairs: ReferencedPairs, *, beta: Positive = 0.1) -> Tensor:
    """-log sigmoid(beta gap) of DPO, between the best and the worst of the completions just drawn for a prompt."""
    return dpo(pairs, beta=beta)


@algorithm("spin", paper="arXiv:2401.01335, eq. 4.7", lesson="self_play")
def spin(pairs: ReferencedPairs, *, beta: Positive = 0.1) -> Tensor:
    """-log sigmoid(beta gap) of DPO, the row's completion chosen over one that the reference drew.

    The reference is the policy as it stood when the iteration began. `beta` is the paper's lambda, which it raises
    to 5 in its last iteration.
    """
    return dpo(pairs, beta=beta)
