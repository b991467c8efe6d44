"""Losses over given text: one value per completion token."""

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


@algorithm("cpt", paper="arXiv:2004.10964, section 3", lesson="documents")
def cpt(tokens: Tokens) -> Tensor:
    """Negative log-likelihood of every token of plain text: its rows have no prompt, so all of it is completion."""
    return sft(tokens)


@algorithm("rft", paper="arXiv:2308.01825, section 3.3", lesson="kept")
def rft(tokens: Tokens) -> Tensor:
    """Negative log-likelihood of every token of the drawn completions whose reward was high enough to keep them."""
    return sft(tokens)


@algorithm("dft", paper="arXiv:2508.05629, section 3")
def dft(tokens: Tokens) -> Tensor:
    """-p log p of every completion token, where its probability p as the factor carries no gradient.

    SFT pulls hardest on the tokens that the policy finds least likely; here they pull as an on-policy sample would.
    """
    negative_logprobs = sft(tokens)
    return negative_logprobs * (-negative_logprobs).exp().detach()
