"""Supervised losses against arithmetic by hand."""

from __future__ import annotations

import math

import pytest
import torch

from oxrl_core.algorithms.supervised import sft
from oxrl_core.types import Tokens


def test_sft_is_the_negative_log_likelihood_of_completion_tokens_alone() -> None:
    logprobs = torch.tensor([[0.5, 0.25, 0.125], [1.0, 0.1, 0.2]]).log().requires_grad_()
    tokens = Tokens(logprobs=logprobs, completion_mask=torch.tensor([[False, True, True], [False, False, True]]))
    values = sft(tokens)
    assert values[tokens.completion_mask].tolist() == pytest.approx([math.log(4), math.log(8), math.log(5)])
    values.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [[0.0, -1.0, -1.0], [0.0, 0.0, -1.0]]
