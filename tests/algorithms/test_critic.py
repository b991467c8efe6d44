"""The critic's loss against arithmetic by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from oxrl_core.algorithms.critic import value_loss
from oxrl_core.types import Values


def one_value(value: float, measured: float, target: float) -> Values:
    return Values(
        values=torch.tensor([[value]], requires_grad=True),
        old_values=torch.tensor([[measured]]),
        returns=torch.tensor([[target]]),
        completion_mask=torch.tensor([[True]]),
    )


def gradient_of(loss: Tensor, values: Values) -> Tensor:
    return torch.autograd.grad(loss.sum(), values.values)[0]


@pytest.mark.parametrize(
    ("value", "measured", "target", "loss", "gradient"),
    [
        (0.1, 0.0, 1.0, 0.405, -0.9),  # within the clip: half the squared error
        (0.5, 0.0, 1.0, 0.32, 0.0),  # far towards its return already: the clipped one, 0.2, counts and is fixed
        (-0.5, 0.0, 1.0, 1.125, -1.5),  # moved away: nothing is clipped, so that it can come back
        (1.0, 0.0, 0.0, 0.5, 1.0),
        (0.0, 0.0, 0.0, 0.0, 0.0),
    ],
)
def test_the_clipped_value_loss_worked_by_hand(
    value: float, measured: float, target: float, loss: float, gradient: float
) -> None:
    values = one_value(value, measured, target)
    seen = value_loss(values, value_clip=0.2)
    assert seen.item() == pytest.approx(loss, rel=1e-6)
    assert gradient_of(seen, values).item() == pytest.approx(gradient, rel=1e-6)


def test_masked_columns_may_hold_anything() -> None:
    values = Values(
        values=torch.tensor([[math.nan, 0.5, math.inf]], requires_grad=True),
        old_values=torch.tensor([[math.inf, 0.5, math.nan]]),
        returns=torch.tensor([[math.nan, 1.0, -math.inf]]),
        completion_mask=torch.tensor([[False, True, False]]),
    )
    loss = value_loss(values, value_clip=0.2)
    assert loss.tolist() == [[0.0, 0.125, 0.0]]
    assert gradient_of(loss, values).tolist() == [[0.0, -0.5, 0.0]]
