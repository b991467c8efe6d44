"""Supervised losses against arithmetic by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from oxrl_core.algorithms.base import get_algorithm
from oxrl_core.algorithms.supervised import cpt, dft, rft, sft
from oxrl_core.types import Tokens


def tokens() -> Tokens:
    logprobs = torch.tensor([[0.5, 0.25, 0.125], [1.0, 0.1, 0.2]]).log().requires_grad_()
    return Tokens(logprobs=logprobs, completion_mask=torch.tensor([[False, True, True], [False, False, True]]))


@pytest.mark.parametrize("loss", [sft, cpt, rft])
def test_sft_is_the_negative_log_likelihood_of_completion_tokens_alone(loss: Callable[[Tokens], Tensor]) -> None:
    signals = tokens()
    values = loss(signals)
    assert values[signals.completion_mask].tolist() == pytest.approx([math.log(4), math.log(8), math.log(5)])
    values.sum().backward()
    assert signals.logprobs.grad is not None
    assert signals.logprobs.grad.tolist() == [[0.0, -1.0, -1.0], [0.0, 0.0, -1.0]]


def test_dft_weighs_each_token_with_its_own_probability_as_a_constant() -> None:
    signals = tokens()
    values = dft(signals)
    expected = [math.log(4) / 4, math.log(8) / 8, math.log(5) / 5]
    assert values[signals.completion_mask].tolist() == pytest.approx(expected)
    values.sum().backward()
    assert signals.logprobs.grad is not None
    # Were the factor differentiated, the slope would be -p (1 + log p).
    assert signals.logprobs.grad.flatten().tolist() == pytest.approx([0.0, -0.25, -0.125, 0.0, 0.0, -0.2])


def test_dft_pulls_at_the_logits_as_reinforce_with_reward_one_for_the_token_would() -> None:
    """E over the policy's own samples of [token = target] grad log p is p(target) grad log p(target)."""
    logits = torch.randn(7, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    said = logits.log_softmax(-1)[3]
    everything = torch.tensor([[True]])
    pull = torch.autograd.grad(dft(Tokens(logprobs=said[None, None], completion_mask=everything)).sum(), logits)[0]
    expected_reward = torch.autograd.grad(-logits.softmax(-1)[3], logits)[0]
    assert torch.allclose(pull, expected_reward, atol=1e-12)


@pytest.mark.parametrize("loss", [sft, cpt, rft, dft])
@pytest.mark.parametrize("logprob", [0.0, -1e4, -1e30])
def test_certain_and_impossible_tokens_make_no_nan(loss: Callable[[Tokens], Tensor], logprob: float) -> None:
    said = torch.tensor([[float("nan"), logprob, float("inf")]], requires_grad=True)
    values = loss(Tokens(logprobs=said, completion_mask=torch.tensor([[False, True, False]])))
    assert torch.isfinite(values).all()
    values.sum().backward()
    assert said.grad is not None
    assert torch.isfinite(said.grad).all()


def test_what_they_learn_from_tells_them_apart() -> None:
    assert {name: (get_algorithm(name).kind, get_algorithm(name).lesson) for name in ("sft", "cpt", "rft", "dft")} == {
        "sft": ("sl", "examples"),
        "cpt": ("sl", "documents"),
        "rft": ("rl", "kept"),
        "dft": ("sl", "examples"),
    }
