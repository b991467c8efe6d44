"""Student's t against tables and worked examples from outside."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxrl_core.runs.analysis.statistics import holm, incomplete_beta, paired, t_quantile, t_two_sided, welch


@pytest.mark.parametrize(
    ("freedom", "expected"),  # the table of every textbook: 95 % two-sided
    [(1, 12.706), (2, 4.303), (4, 2.776), (10, 2.228), (30, 2.042), (1000, 1.962)],
)
def test_quantiles_are_those_of_the_table(freedom: float, expected: float) -> None:
    assert t_quantile(freedom) == pytest.approx(expected, abs=6e-4)


def test_one_degree_of_freedom_is_cauchy() -> None:
    for t in (0.1, 1.0, 3.0, 50.0):
        assert t_two_sided(t, 1) == pytest.approx(1 - 2 * math.atan(t) / math.pi, abs=1e-12)


@given(st.floats(0.01, 0.99), st.floats(0.5, 50))
def test_the_beta_function_with_one_is_a_power(x: float, a: float) -> None:
    assert incomplete_beta(a, 1, x) == pytest.approx(x**a, rel=1e-9, abs=1e-12)


def test_students_sleep_data() -> None:
    # Student (1908), the ten patients of both drugs; paired t = 4.0621, p = 0.002833, interval 0.7001 to 2.4599.
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    found = paired(first, second)
    assert (found.mean, found.low, found.high) == pytest.approx((1.58, 0.7001142, 2.4598858), abs=1e-6)
    assert found.p == pytest.approx(0.00283289, abs=1e-7)
    # The same as independent groups, by Welch: p = 0.07939, interval -0.2054832 to 3.3654832.
    found = welch(first, second)
    assert (found.low, found.high) == pytest.approx((-0.2054832, 3.3654832), abs=1e-6)
    assert found.p == pytest.approx(0.07939414, abs=1e-7)


def test_groups_without_scatter_are_equal_or_not() -> None:
    assert welch([1, 1, 1], [1, 1, 1]).p == 1 and paired([1, 2, 3], [2, 3, 4]).p == 0


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.6 times 4, 3, 2, 1, never falling.
    assert holm([0.02, 0.6, 0.01, 0.03]) == pytest.approx([0.06, 0.6, 0.04, 0.06])
    assert holm([]) == []
