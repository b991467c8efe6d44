"""Whether two groups of measurements differ: Student's t, without a library."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

FEWEST = 3  # two values say next to nothing about how much they scatter


@dataclass(frozen=True)
class Difference:
    """Mean of the second group minus that of the first, its 95 % interval, and the p-value of no difference."""

    mean: float
    low: float
    high: float
    p: float


def welch(first: Sequence[float], second: Sequence[float]) -> Difference:
    """The difference of two independent groups, whose scatter may differ (Welch 1947). At least two values each."""
    parts = [statistics.variance(group) / len(group) for group in (first, second)]
    mean, error = statistics.fmean(second) - statistics.fmean(first), math.sqrt(sum(parts))
    if error == 0:
        return _exact(mean)
    freedom = sum(parts) ** 2 / sum(
        part**2 / (len(group) - 1) for part, group in zip(parts, (first, second), strict=True)
    )
    return _difference(mean, error, freedom)


def paired(first: Sequence[float], second: Sequence[float]) -> Difference:
    """The mean difference of values that belong together (the same seed). At least two pairs."""
    gaps = [b - a for a, b in zip(first, second, strict=True)]
    mean, error = statistics.fmean(gaps), math.sqrt(statistics.variance(gaps) / len(gaps))
    return _exact(mean) if error == 0 else _difference(mean, error, len(gaps) - 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values that stay honest although several questions were asked (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, most = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        most = max(most, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = most
    return adjusted


def t_two_sided(t: float, freedom: float) -> float:
    """The probability that |T| is at least |t| with so many degrees of freedom."""
    return incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))


def t_quantile(freedom: float, outside: float = 0.05) -> float:
    """The t with the share `outside` beyond plus and minus it."""
    low, high = 0.0, 1.0
    while t_two_sided(high, freedom) > outside:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if t_two_sided(middle, freedom) > outside else (low, middle)
    return (low + high) / 2


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction (Lentz)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # beyond this the fraction of the mirrored function converges faster
        return 1 - incomplete_beta(b, a, 1 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    tiny = 1e-300
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1) or tiny)
    fraction = d
    for m in range(1, 300):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / (1 + numerator * d or tiny)
            c = 1 + numerator / c or tiny
            fraction *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return front * fraction / a


def _difference(mean: float, error: float, freedom: float) -> Difference:
    reach = t_quantile(freedom) * error
    return Difference(mean, mean - reach, mean + reach, t_two_sided(mean / error, freedom))


def _exact(mean: float) -> Difference:
    """Groups without any scatter: they are equal or they are not."""
    return Difference(mean, mean, mean, 1.0 if mean == 0 else 0.0)
