"""Supervised and distillation losses give TRL's value and gradient."""

from __future__ import annotations

import pytest

from scripts.parity.result import Parity

TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def table() -> list[Parity]:
    from scripts.parity.supervised import rows

    return rows()


@pytest.mark.parametrize("name, oracles", [("sft", 1), ("cpt", 1), ("rft", 1), ("dft", 1), ("kd", 1), ("gkd", 2)])
def test_value_and_gradient_are_those_of_trl(table: list[Parity], name: str, oracles: int) -> None:
    mine = [row for row in table if row.algorithm == name]
    assert len(mine) == oracles
    for row in mine:
        assert row.cases >= 8
        assert row.value_error <= TOLERANCE
        assert row.gradient_error <= TOLERANCE
