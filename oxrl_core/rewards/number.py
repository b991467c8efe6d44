"""Rewards that compare the number a completion ends with."""

from __future__ import annotations

import re

from oxrl_core.rewards.answers import MARK, plain_digits
from oxrl_core.rewards.base import reward
from oxrl_core.rewards.text import exact, reference, the_reference
from oxrl_core.types import Rollout, Score

TOLERANCE = 1e-5

# A minus after a digit, a letter, a bracket or a point subtracts ("5-3"); elsewhere it is a sign. A point or comma
# counts only with digits behind it, so that "72." and "1, 2" hold 72, 1 and 2. Linear in the text.
NUMBER = re.compile(
    r"(?:(?<![0-9A-Za-z).])(?P<sign>[-+\u2212]\$?|\$[-\u2212]|\$))?"
    r"(?P<size>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
)


def numbers(text: str) -> list[float]:
    """Every number of a text, in order; the digits of every script count."""
    found: list[float] = []
    for match in NUMBER.finditer(plain_digits(text)):
        size = float(match["size"].replace(",", ""))
        sign = match["sign"] or ""
        found.append(-size if "-" in sign or "\u2212" in sign else size)
    return found


def final_number(text: str) -> float | None:
    """The first number after the last `####`, or the last number of a text without that mark."""
    _, mark, result = text.rpartition(MARK)
    found = numbers(result)
    if not found:
        return None
    return found[0] if mark else found[-1]


@reward("gsm8k", needs_answer=True, gold=the_reference)
def gsm8k(rollout: Rollout) -> Score:
    """1 where the number after the last `####` (else the last number) is the reference's, within 1e-5; else 0.

    The reference may be a number or a whole solution.
    """
    wanted = final_number(reference(rollout))
    if wanted is None:
        raise ValueError(f"the reference answer of {rollout.prompt.id} holds no number: {rollout.prompt.answer!r}")
    given = final_number(rollout.text)
    if given is None:
        return Score(0.0, "no_answer", detail="the completion names no number")
    return Score(float(abs(given - wanted) <= TOLERANCE))


@reward("default", needs_answer=True, gold=the_reference)
def default(rollout: Rollout) -> Score:
    """`gsm8k` where the reference is a number or a solution with `####`, else `exact`."""
    answer = reference(rollout)
    code = answer[0] == "0" and answer[1:2].isdigit()  # "024" is three characters, not 24
    if MARK in answer or (NUMBER.fullmatch(answer) and not code):
        return gsm8k(rollout)
    return Score(exact(rollout))
