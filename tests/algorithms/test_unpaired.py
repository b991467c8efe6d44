"""KTO against arithmetic by hand, and its baseline over micro-batches and over steps."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oxrl_core.algorithms.base import check_params, get_algorithm
from oxrl_core.algorithms.unpaired import kto
from oxrl_core.errors import ConfigError
from oxrl_core.types import Labeled

quick = settings(max_examples=60, deadline=None)
numbers = st.floats(-50, 50, width=32)


def labeled(
    logratio: list[float],
    is_desirable: list[bool],
    mismatched: list[float],
    running: dict[str, float] | None = None,
) -> Labeled:
    values = torch.tensor(logratio)
    return Labeled(
        logratio=values.clone().requires_grad_(),
        is_desirable=torch.tensor(is_desirable),
        step_logratio=values,
        step_is_desirable=torch.tensor(is_desirable),
        step_mismatched=torch.tensor(mismatched),
        running=running or {},
    )


def test_kto_worked_by_hand() -> None:
    # z0 = (1 + 3) / 2 = 2; at beta log(3) the first stands 1 above it, sigmoid 3/4, the second 1 below it, too.
    signals = labeled([3.0, 1.0, 1.0, 3.0], [True, False, True, False], [1.0, 3.0])
    values = kto(signals, beta=math.log(3), desirable_weight=2.0, undesirable_weight=4.0)
    assert values.tolist() == pytest.approx([2 / 4, 4 / 4, 2 * 3 / 4, 4 * 3 / 4])
    values.sum().backward()
    assert signals.logratio.grad is not None
    slope = math.log(3) * 3 / 16  # beta sigmoid (1 - sigmoid)
    assert signals.logratio.grad.tolist() == pytest.approx([-2 * slope, 4 * slope, -2 * slope, 4 * slope])


@quick
@given(st.lists(st.booleans(), min_size=1, max_size=6), st.floats(0.01, 3.0), st.floats(0, 4), st.floats(0, 4))
def test_kto_is_half_its_weight_where_the_policy_is_its_reference(labels, beta, desirable, undesirable) -> None:
    signals = labeled([0.0] * len(labels), labels, [0.0] * len(labels))
    values = kto(signals, beta=beta, desirable_weight=desirable, undesirable_weight=undesirable)
    weights = [desirable if label else undesirable for label in labels]
    assert values.tolist() == pytest.approx([weight / 2 for weight in weights], rel=1e-6)
    values.sum().backward()
    assert signals.logratio.grad is not None
    signs = [-1 if label else 1 for label in labels]
    expected = [sign * weight * beta / 4 for sign, weight in zip(signs, weights, strict=True)]
    assert signals.logratio.grad.tolist() == pytest.approx(expected, rel=1e-6)


@quick
@given(st.lists(numbers, min_size=1, max_size=6), st.lists(numbers, min_size=1, max_size=6))
def test_a_negative_estimate_of_the_kl_counts_as_zero(logratio, mismatched) -> None:
    below = [-abs(value) for value in mismatched]
    labels = [index % 2 == 0 for index in range(len(logratio))]
    assert torch.equal(kto(labeled(logratio, labels, below)), kto(labeled(logratio, labels, [0.0])))


@quick
@given(st.lists(numbers, min_size=2, max_size=6), st.lists(numbers, min_size=1, max_size=6))
def test_desirable_and_undesirable_are_mirror_images_around_the_baseline(logratio, mismatched) -> None:
    as_desirable = kto(labeled(logratio, [True] * len(logratio), mismatched))
    as_undesirable = kto(labeled(logratio, [False] * len(logratio), mismatched))
    assert (as_desirable + as_undesirable).tolist() == pytest.approx([1.0] * len(logratio), rel=1e-6)


def test_the_baseline_is_that_of_the_whole_step_and_carries_no_gradient() -> None:
    logratio, labels, mismatched = [3.0, -1.0, 0.5, 2.0], [True, False, False, True], [4.0, 0.0, 1.0, 3.0]
    whole = kto(labeled(logratio, labels, mismatched))
    parts = [kto(labeled(logratio[i : i + 1], labels[i : i + 1], mismatched)) for i in range(4)]
    assert torch.equal(whole, torch.cat(parts))
    signals = labeled(logratio, labels, mismatched)
    signals.step_mismatched.requires_grad_()
    kto(signals).sum().backward()
    assert signals.step_mismatched.grad is None


def test_the_running_baseline_is_a_moving_average_of_estimates_that_begins_with_the_first() -> None:
    entry = get_algorithm("kto")
    assert entry.running is not None
    params = check_params(entry, {"baseline": "running", "decay": 0.75})
    memory: dict[str, float] = {}
    seen = []
    for mismatched in ([2.0, 4.0], [-5.0, -5.0], [1.0, 1.0]):
        memory = entry.running(labeled([0.0], [True], mismatched), memory, params)
        seen.append(memory["baseline"])
    assert seen == pytest.approx([3.0, 0.75 * 3 - 0.25 * 5, 0.75 * 1.0 + 0.25 * 1.0])  # 1 is the average after step 2
    # The loss takes the average, cut at 0, and no longer the step's own estimate.
    value = kto(labeled([1.0], [True], [99.0], {"baseline": 1.0}), baseline="running")
    assert value.tolist() == [0.5]
    value = kto(labeled([0.0], [True], [99.0], {"baseline": -1.0}), baseline="running")
    assert value.tolist() == [0.5]


def test_an_estimate_of_every_step_remembers_nothing_and_a_step_without_estimate_changes_nothing() -> None:
    entry = get_algorithm("kto")
    assert entry.running is not None
    assert entry.running(labeled([0.0], [True], [2.0]), {}, entry.params) == {}
    params = check_params(entry, {"baseline": "running"})
    assert entry.running(labeled([], [], []), {"baseline": 2.0}, params) == {"baseline": 2.0}


@pytest.mark.parametrize("size", [1e2, 1e4, 1e6])
def test_no_log_ratio_is_too_large(size: float) -> None:
    signals = labeled([size, -size, size, -size], [True, True, False, False], [size])
    values = kto(signals)
    values.sum().backward()
    assert ((values >= 0) & (values <= 1)).all()
    assert signals.logratio.grad is not None
    assert torch.isfinite(signals.logratio.grad).all()


@pytest.mark.parametrize("wrong", [{"baseline": "moving"}, {"decay": 1.5}, {"desirable_weight": -1.0}, {"beta": 0.0}])
def test_what_kto_does_not_take_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=rf"algorithm\.{next(iter(wrong))}"):
        check_params(get_algorithm("kto"), wrong)
