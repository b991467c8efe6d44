"""Parity: how far one loss of ours stands from the library that we hold it against."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Parity:
    """One row of the parity table: the largest error seen over all cases, of the value and of the gradient."""

    algorithm: str
    oracle: str
    cases: int
    value_error: float
    gradient_error: float
