"""Losses over given text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oxrl_core.algorithms.base import algorithm

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import Tokens


@algorithm("sft", paper="arXiv:2203.02155, section 3.5")
def sft(tokens: Tokens) -> Tensor:
    """Negative log-likelihood of every completion token."""
    # The first column has no prediction and padding may hold anything: neither may reach a sum or a gradient.
    return -tokens.logprobs.masked_fill(~tokens.completion_mask, 0.0)
