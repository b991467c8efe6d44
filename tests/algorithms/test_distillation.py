"""Distillation losses against arithmetic by hand and the properties of divergences."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from oxrl_core.algorithms.base import get_algorithm
from oxrl_core.algorithms.distillation import gkd, kd
from oxrl_core.types import Distributions

INF = float("inf")
quick = settings(max_examples=60, deadline=None)
two_rows = st.integers(2, 7).flatmap(
    lambda size: st.tuples(*[st.lists(st.floats(-9, 9), min_size=size, max_size=size)] * 2)
)


def distributions(student: list[float], teacher: list[float], target: int = 0) -> Distributions:
    """One token, in float64, of unnormalized logits."""
    return Distributions(
        logits=torch.tensor([student], dtype=torch.float64, requires_grad=True),
        teacher_logits=torch.tensor([teacher], dtype=torch.float64),
        targets=torch.tensor([target]),
    )


def of_probabilities(student: list[float], teacher: list[float], target: int = 0) -> Distributions:
    def logs(row: list[float]) -> list[float]:
        return [math.log(value) if value else -INF for value in row]

    return distributions(logs(student), logs(teacher), target)


def slope(loss: Any, signals: Distributions, **params: float) -> Tensor:
    return torch.autograd.grad(loss(signals, **params).sum(), signals.logits)[0][0]


# ---- kd


def test_kd_worked_by_hand() -> None:
    # KL((3/4, 1/4) || (1/2, 1/2)) = log 2 - H(3/4); the cross-entropy of either token is log 2.
    signals = of_probabilities([0.5, 0.5], [0.75, 0.25])
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert kd(signals, alpha=0.0, temperature=1.0).item() == pytest.approx(divergence)
    assert kd(signals, alpha=1.0).item() == pytest.approx(math.log(2))
    assert kd(signals, alpha=0.25, temperature=1.0).item() == pytest.approx(0.25 * math.log(2) + 0.75 * divergence)
    assert slope(kd, signals, alpha=0.0, temperature=1.0).tolist() == pytest.approx([-0.25, 0.25])
    # At T = 2 the teacher's odds of 3 become sqrt(3), and the divergence counts four times.
    first = math.sqrt(3) / (1 + math.sqrt(3))
    softer = first * math.log(2 * first) + (1 - first) * math.log(2 * (1 - first))
    assert kd(signals, alpha=0.0, temperature=2.0).item() == pytest.approx(4 * softer)
    assert slope(kd, signals, alpha=0.0, temperature=2.0).tolist() == pytest.approx(
        [2 * (0.5 - first), 2 * (first - 0.5)]
    )


@quick
@given(two_rows)
def test_at_high_temperature_kd_matches_logits(rows) -> None:
    """Hinton et al., eq. 4: with the factor T^2 the slope goes to (student - teacher) / V of centered logits."""
    student, teacher = ([value - sum(row) / len(row) for value in row] for row in rows)
    expected = [(mine - theirs) / len(student) for mine, theirs in zip(student, teacher, strict=True)]
    assert slope(kd, distributions(student, teacher), alpha=0.0, temperature=1e4).tolist() == pytest.approx(
        expected, abs=1e-2
    )


def test_the_size_of_the_soft_gradient_does_not_depend_on_the_temperature() -> None:
    generator = torch.Generator().manual_seed(5)
    student, teacher = (torch.randn(50, generator=generator).tolist() for _ in range(2))
    signals = distributions(student, teacher)
    sizes = [slope(kd, signals, alpha=0.0, temperature=t).norm().item() for t in (1.0, 2.0, 4.0, 8.0, 16.0)]
    assert max(sizes) / min(sizes) < 2  # without the factor it falls by 256


@quick
@given(two_rows, st.floats(0, 1), st.integers(0, 1))
def test_a_teacher_that_is_certain_is_a_label(rows, alpha, target) -> None:
    """KL(one-hot || student) is the cross-entropy, so both terms are the same at T = 1."""
    student = rows[0]
    certain = [0.0 if index == target else -INF for index in range(len(student))]
    signals = distributions(student, certain, target)
    cross_entropy = -torch.tensor(student, dtype=torch.float64).log_softmax(-1)[target].item()
    assert kd(signals, alpha=alpha, temperature=1.0).item() == pytest.approx(cross_entropy, rel=1e-9, abs=1e-12)
    assert torch.isfinite(slope(kd, signals, alpha=alpha, temperature=1.0)).all()


@quick
@given(two_rows, st.floats(0.5, 8))
def test_a_student_that_is_its_teacher_has_nothing_left_to_learn(rows, temperature) -> None:
    signals = distributions(rows[0], [value + 3.0 for value in rows[0]])  # logits up to a constant
    for loss, params in ((kd, {"alpha": 0.0}), (gkd, {"beta": 0.0}), (gkd, {}), (gkd, {"beta": 1.0})):
        assert loss(signals, **params, temperature=temperature).item() == pytest.approx(0.0, abs=1e-9)
        assert slope(loss, signals, **params, temperature=temperature).abs().max() < 1e-9


# ---- gkd


def test_gkd_worked_by_hand() -> None:
    student, teacher = [0.5, 0.5], [0.75, 0.25]
    signals = of_probabilities(student, teacher)
    forward = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    reverse = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
    assert gkd(signals, beta=0.0).item() == pytest.approx(forward)
    assert gkd(signals, beta=1.0).item() == pytest.approx(reverse)
    # M = (9/16, 7/16) at beta 1/4.
    jsd = 0.25 * (0.75 * math.log(12 / 9) + 0.25 * math.log(4 / 7)) + 0.75 * (
        0.5 * math.log(8 / 9) + 0.5 * math.log(8 / 7)
    )
    assert gkd(signals, beta=0.25).item() == pytest.approx(jsd)


@quick
@given(two_rows, st.floats(0.05, 0.95))
def test_the_divergence_is_positive_bounded_and_symmetric_in_the_middle(rows, beta) -> None:
    student, teacher = rows
    here, there = distributions(student, teacher), distributions(teacher, student)
    assert gkd(here, beta=0.5).item() == pytest.approx(gkd(there, beta=0.5).item(), rel=1e-9, abs=1e-12)
    assert gkd(here, beta=beta).item() == pytest.approx(gkd(there, beta=1 - beta).item(), rel=1e-9, abs=1e-12)
    most = -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)
    assert -1e-12 <= gkd(here, beta=beta).item() <= most + 1e-12


def test_models_that_agree_on_nothing_are_log_two_apart() -> None:
    apart = of_probabilities([1.0, 0.0, 0.0], [0.0, 0.5, 0.5])
    assert gkd(apart).item() == pytest.approx(math.log(2))
    assert torch.isfinite(slope(gkd, apart)).all()


@quick
@given(two_rows)
def test_near_its_ends_the_divergence_falls_to_zero_like_beta_times_the_kl_that_stands_there(rows) -> None:
    """The end itself is that KL whole: the jump that the docstring warns of."""
    here = distributions(*[[value / 3 for value in row] for row in rows])  # beta must be small beside p / q
    for beta, end in ((1e-6, 0.0), (1 - 1e-6, 1.0)):
        whole = gkd(here, beta=end).item()
        assert gkd(here, beta=beta).item() == pytest.approx(1e-6 * whole, rel=0.05, abs=1e-9)


# ---- both


@pytest.mark.parametrize("loss, params", [(kd, {}), (gkd, {}), (gkd, {"beta": 0.0}), (gkd, {"beta": 1.0})])
def test_entries_that_both_rule_out_are_as_if_they_were_not_there(loss: Any, params: dict[str, float]) -> None:
    student, teacher = [0.3, -1.0, 2.0], [1.0, 0.5, -0.5]
    plain = distributions(student, teacher, 1)
    padded = distributions([-INF, *student, -INF], [-INF, *teacher, -INF], 2)
    assert loss(padded, **params).item() == pytest.approx(loss(plain, **params).item(), rel=1e-12)
    expected = [0.0, *slope(loss, plain, **params).tolist(), 0.0]
    assert slope(loss, padded, **params).tolist() == pytest.approx(expected, rel=1e-12)


def test_a_token_that_only_the_other_can_say_costs_what_the_divergence_says() -> None:
    student_cannot = of_probabilities([1.0, 0.0], [0.5, 0.5])
    assert gkd(student_cannot, beta=0.0).item() == INF
    assert gkd(student_cannot, beta=1.0).item() == pytest.approx(math.log(2))
    assert kd(student_cannot, alpha=1.0).item() == 0.0  # the divergence is not asked for
    teacher_cannot = of_probabilities([0.5, 0.5], [1.0, 0.0])
    assert gkd(teacher_cannot, beta=0.0).item() == pytest.approx(math.log(2))
    assert gkd(teacher_cannot, beta=1.0).item() == INF
    for signals in (student_cannot, teacher_cannot):
        assert gkd(signals).item() < math.log(2)
        assert torch.isfinite(slope(gkd, signals)).all()


@pytest.mark.parametrize("loss, params", [(kd, {}), (gkd, {}), (gkd, {"beta": 0.0}), (gkd, {"beta": 1.0})])
@pytest.mark.parametrize("size", [1e2, 1e4, 1e6])
def test_no_logit_is_too_large(loss: Any, params: dict[str, float], size: float) -> None:
    signals = Distributions(
        logits=torch.tensor([[size, -size, 0.0], [0.0, 0.0, 0.0]], requires_grad=True),
        teacher_logits=torch.tensor([[-size, size, 0.0], [size, size, -size]]),
        targets=torch.tensor([1, 2]),
    )
    values = loss(signals, **params)
    assert values.shape == (2,)
    assert torch.isfinite(values).all()
    values.sum().backward()
    assert signals.logits.grad is not None
    assert torch.isfinite(signals.logits.grad).all()


def test_kd_reads_rows_and_gkd_draws_completions_beside_them() -> None:
    assert (get_algorithm("kd").kind, get_algorithm("kd").lesson) == ("sl", "examples")
    assert (get_algorithm("gkd").kind, get_algorithm("gkd").lesson) == ("rl", "mixed")
