"""Preference losses, KTO and reward models give TRL's value and gradient."""

from __future__ import annotations

import pytest

from oxrl_core.algorithms.preference import dpo
from scripts.parity.result import Parity

TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def table() -> dict[str, Parity]:
    from scripts.parity.preference import rows

    return {row.algorithm: row for row in rows()}


@pytest.mark.parametrize("name", ["dpo", "ipo", "online_dpo", "spin", "simpo", "orpo", "kto", "rm"])
def test_value_and_gradient_are_those_of_trl(table: dict[str, Parity], name: str) -> None:
    row = table[name]
    assert row.cases >= 8
    assert row.value_error <= TOLERANCE
    assert row.gradient_error <= TOLERANCE


def test_the_comparison_sees_a_loss_that_is_slightly_wrong() -> None:
    from scripts.parity.oracle import compare
    from scripts.parity.preference import dpo_cases

    wrong = dpo_cases(lambda pairs, beta: dpo(pairs, beta=1.0001 * beta), "sigmoid", (0.1,))
    row = compare("dpo", "DPOTrainer", wrong)
    assert row.value_error > 10 * TOLERANCE
    assert row.gradient_error > 10 * TOLERANCE
    flipped = dpo_cases(lambda pairs, beta: -dpo(pairs, beta=beta), "sigmoid", (0.1,))
    assert compare("dpo", "DPOTrainer", flipped).gradient_error > 1
    undefined = dpo_cases(lambda pairs, beta: dpo(pairs, beta=beta) * float("nan"), "sigmoid", (0.1,))
    assert compare("dpo", "DPOTrainer", undefined).value_error == float("inf")
