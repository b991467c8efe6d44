"""Stable functions against numbers worked out in Python's float64, far from 0 and at it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from oxrl_core.algorithms.arithmetic import log1mexp, log_odds, log_sigmoid, softplus

FAR = [-1e4, -500.0, -87.0, -20.0, -1.0, -1e-4, 0.0, 1e-4, 1.0, 20.0, 87.0, 500.0, 1e4]


def value_and_slope(function: Callable[[Tensor], Tensor], x: float) -> tuple[float, float]:
    at = torch.tensor([x], requires_grad=True)
    value = function(at)
    value.sum().backward()
    assert at.grad is not None
    return value.item(), at.grad.item()


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(max(x, -700.0)) / (1 + math.exp(max(x, -700.0)))


@pytest.mark.parametrize("x", FAR)
def test_softplus_and_its_slope_are_right_however_large_x_is(x: float) -> None:
    value, slope = value_and_slope(softplus, x)
    assert value == pytest.approx(max(x, 0.0) + math.log1p(math.exp(-abs(x))), rel=1e-6, abs=1e-38)
    assert slope == pytest.approx(sigmoid(x), rel=1e-6, abs=1e-38)


@pytest.mark.parametrize("x", FAR)
def test_log_sigmoid_and_its_slope_are_right_however_large_x_is(x: float) -> None:
    value, slope = value_and_slope(log_sigmoid, x)
    assert value == pytest.approx(min(x, 0.0) - math.log1p(math.exp(-abs(x))), rel=1e-6, abs=1e-38)
    assert slope == pytest.approx(sigmoid(-x), rel=1e-6, abs=1e-38)


def test_log_sigmoid_at_zero_where_every_preference_loss_begins() -> None:
    assert value_and_slope(log_sigmoid, 0.0) == (pytest.approx(-math.log(2), rel=1e-7), 0.5)


@pytest.mark.parametrize("x", [-1e4, -100.0, -20.0, -1.0, -0.6932, -0.6931, -0.1, -1e-3, -1e-6])
def test_log1mexp_and_log_odds_are_right_on_both_sides_of_their_branch(x: float) -> None:
    x = float(torch.tensor(x))  # as float32 holds it
    value, slope = value_and_slope(log1mexp, x)
    assert value == pytest.approx(math.log(-math.expm1(x)), rel=1e-5, abs=1e-38)
    assert slope == pytest.approx(-math.exp(x) / -math.expm1(x), rel=1e-5, abs=1e-38)
    value, slope = value_and_slope(log_odds, x)
    assert value == pytest.approx(x - math.log(-math.expm1(x)), rel=1e-5, abs=1e-5)
    assert slope == pytest.approx(1 / -math.expm1(x), rel=1e-5)


@pytest.mark.parametrize("function", [log1mexp, log_odds])
def test_a_probability_of_one_has_finite_odds_and_a_finite_slope(function: Callable[[Tensor], Tensor]) -> None:
    value, slope = value_and_slope(function, 0.0)
    assert abs(value) == pytest.approx(24 * math.log(2), rel=1e-6)  # 1 - 2**-24 is the next float32 below 1
    assert math.isfinite(slope)


@settings(max_examples=100, deadline=None)
@given(st.floats(-1e4, 1e4, width=32))
def test_the_two_sides_of_a_sigmoid_belong_together(x: float) -> None:
    at = torch.tensor([x])
    assert (log_sigmoid(at) - log_sigmoid(-at)).item() == pytest.approx(x, rel=1e-6, abs=1e-6)
    assert torch.equal(softplus(at), -log_sigmoid(-at))
    assert torch.isfinite(softplus(at)).all()
