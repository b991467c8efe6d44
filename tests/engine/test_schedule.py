from __future__ import annotations

import pytest

from oxrl_core.config.schema import TrainConfig
from oxrl_core.engine.schedule import learning_rate


def rates(total: int, **train: object) -> list[float]:
    config = TrainConfig.model_validate({"lr": 8.0, **train})
    return [learning_rate(step, config, total) for step in range(total)]


def test_constant_is_constant() -> None:
    assert rates(3) == [8, 8, 8]


def test_warm_up_reaches_the_peak_at_its_last_step_and_never_stands_at_zero() -> None:
    assert rates(6, warmup_steps=4) == [2, 4, 6, 8, 8, 8]


def test_linear_falls_in_equal_steps_after_the_warm_up() -> None:
    assert rates(6, warmup_steps=2, lr_schedule="linear") == [4, 8, 8, 6, 4, 2]


def test_linear_ends_at_the_floor() -> None:
    assert rates(4, lr_schedule="linear", lr_floor=0.5) == [8, 7, 6, 5]


def test_cosine_passes_the_middle_half_way() -> None:
    # cos(0), cos(pi/4), cos(pi/2), cos(3 pi/4) = 1, .7071, 0, -.7071
    assert rates(4, lr_schedule="cosine") == pytest.approx([8, 6.82843, 4, 1.17157], abs=1e-5)


def test_cosine_keeps_the_floor() -> None:
    assert rates(4, lr_schedule="cosine", lr_floor=0.25)[2] == pytest.approx(0.25 * 8 + 0.75 * 4)


def test_steps_beyond_the_last_stay_at_the_floor() -> None:
    config = TrainConfig(lr=8.0, lr_schedule="linear", lr_floor=0.125)
    assert learning_rate(4, config, 4) == 1
    assert learning_rate(400, config, 4) == 1


def test_a_warm_up_as_long_as_the_run_divides_by_nothing() -> None:
    assert rates(2, warmup_steps=2, lr_schedule="cosine") == [4, 8]
