"""Rewards that compare mathematics: text first, then exact arithmetic, then math-verify in a process of its own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from oxrl_core.rewards.answers import LONGEST_ANSWER, MARK, after_thinking, boxed_or_marked, boxes
from oxrl_core.rewards.base import reward
from oxrl_core.rewards.math_client import MISSING, SECONDS, ask_math_verify, too_large
from oxrl_core.rewards.math_exact import Value, equal, value_of
from oxrl_core.rewards.math_text import WORDS_ONLY, Quantity, is_name, key, members, normalise, split_unit, without_name
from oxrl_core.rewards.number import numbers
from oxrl_core.rewards.text import reference
from oxrl_core.types import Prompt, Rollout, Score, ScoreStatus

How = Literal["text", "arithmetic", "algebra", "refused"]
PROMPT_CHARACTERS = 20_000  # of a prompt, searched for a copied expression

OPERATION = re.compile(r"[*^]|\\sqrt|(?<=[\w)}\]])[-+]|(?<=[\w)}\]])/(?![\d\s]+$)|/(?=.*/)")
LETTER_OR_GAP = re.compile(r"(?<![A-Za-z\\])[A-Za-z]+|(?<=\d) (?=\d)|\\(?:text|pi|pm|approx|infty)(?![a-z])")
FUNCTION = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc|log|ln|exp|arc|operatorname|frac\{[a-z])")
HAS_DIGIT = re.compile(r"\d")


@dataclass(frozen=True)
class Comparison:
    """Whether an answer is the reference, how that was found out, and what stood in the way."""

    is_equal: bool
    how: How
    detail: str = ""
    status: ScoreStatus = "ok"  # "error" and "timeout": nobody can say

    def score(self) -> Score:
        """1 or 0; no value where nobody can say."""
        if self.status != "ok":
            return Score(float("nan"), self.status, detail=self.detail)
        return Score(float(self.is_equal), parts={"algebra": float(self.how == "algebra")}, detail=self.detail)


EQUAL = Comparison(True, "arithmetic")
DIFFERENT = Comparison(False, "arithmetic")


def refused(reason: str) -> Comparison:
    """An answer whose form alone keeps it from being right."""
    return Comparison(False, "refused", reason)


@lru_cache(maxsize=4096)
def wanted_of(answer: str) -> str:
    """The answer of a reference: its last box, else what stands after `####`, else all of it."""
    held = boxes(answer)
    if held:
        return held[-1].content
    if MARK in answer:
        return answer.rpartition(MARK)[2].strip().partition("\n")[0].strip()
    return answer.strip()


def compare(wanted: str, given: str, prompt: str = "") -> Comparison:
    """Whether two mathematical texts say the same."""
    left, right = normalise(wanted), normalise(given)
    if not left:
        return Comparison(False, "refused", "the reference holds no answer", "error")
    if key(left) == key(right):
        return Comparison(True, "text")
    if not right:
        return refused("an answer of nothing")
    left, right, fault = _sides(left, right)
    if fault:
        return refused(fault)
    if key(left) == key(right):
        return Comparison(True, "text")
    if WORDS_ONLY.fullmatch(left) or WORDS_ONLY.fullmatch(right):
        return Comparison(False, "text")  # words are what they say; no algebra makes two of them one
    if _is_copied(right, prompt):
        return refused("an expression of the prompt, given back undone")
    if len(members(left)) == 1:
        decided = _exactly(split_unit(left), split_unit(right))
        if decided is not None:
            return decided
    return _by_algebra(left, right)


def _sides(left: str, right: str) -> tuple[str, str, str]:
    """Reference and answer without the name in front, and what is wrong with an answer that holds `=`."""
    left = without_name(left)
    chain = members(right)
    if len(members(left)) > 1:  # the reference is an equation
        if len(chain) == 2:
            return left, right, ""
        return left, right, "no equation" if len(chain) == 1 else "a chain of equations"
    if not all(map(is_name, chain[:-1])):
        return left, right, "an equation with numbers before its last member"
    return left, chain[-1], "" if chain[-1] else "an equation without a right side"


def _is_copied(right: str, prompt: str) -> bool:
    """Whether the answer is an operation that the prompt asks for. A number of the prompt may be its answer."""
    if not prompt or not OPERATION.search(right.lstrip("+-")):
        return False
    return key(right) in _prompt_key(prompt[-PROMPT_CHARACTERS:])


@lru_cache(maxsize=64)
def _prompt_key(prompt: str) -> str:
    return normalise(prompt).replace(" ", "")


def _exactly(left: Quantity, right: Quantity) -> Comparison | None:
    """The verdict of exact arithmetic, or None where it is not enough."""
    wanted, given = value_of(left.text), value_of(right.text)
    if wanted is None:
        return None
    if given is None:
        # What is rational holds no letters but those of functions, e and i; anything like a word is none of them.
        letters = (match.group() for match in LETTER_OR_GAP.finditer(right.text))
        is_rational = FUNCTION.search(right.text) or all(letter in ("e", "i") for letter in letters)
        return None if is_rational else DIFFERENT
    if left.unit and right.unit and left.unit != right.unit:
        return refused(f"{right.unit} where {left.unit} is asked for")
    if left.is_percent == right.is_percent:
        return EQUAL if equal(wanted, given) else DIFFERENT
    if wanted.number is None or given.number is None:
        return DIFFERENT
    hundredth = Fraction(1, 100)
    if right.is_percent:
        # The sign says hundredths. Of a whole number above 1 it may have been left out: the question said percent.
        sign_left_out = wanted.number.denominator == 1 and abs(wanted.number) > 1
        same = equal(wanted, Value(given.number * hundredth)) or (sign_left_out and equal(wanted, given))
    else:
        same = equal(Value(wanted.number * hundredth), given) or equal(wanted, given)
    return EQUAL if same else DIFFERENT


def _by_algebra(left: str, right: str) -> Comparison:
    quantity, other = split_unit(left), split_unit(right)
    if quantity.unit and other.unit and quantity.unit != other.unit:
        return refused(f"{other.unit} where {quantity.unit} is asked for")
    if quantity.is_percent == other.is_percent:
        left, right = quantity.text, other.text
    if reason := too_large(right):
        return refused(reason)
    if reason := too_large(left):
        return Comparison(False, "algebra", f"the reference is {reason}", "error")
    outcome, detail = ask_math_verify(left, right)
    if outcome in ("equal", "different"):
        return Comparison(outcome == "equal", "algebra")
    if outcome == "timeout":
        return Comparison(False, "algebra", f"no verdict of math-verify within {SECONDS:g} s", "timeout")
    if outcome == "missing":
        return Comparison(False, "algebra", MISSING, "error")
    if outcome == "unreadable" and detail.startswith("answer"):
        return refused(f"math-verify cannot read the {detail}")
    if outcome == "unreadable":  # a reference in words, which the answer is not
        return Comparison(False, "text", f"compared as text: math-verify cannot read the {detail}")
    if outcome == "too_large":
        return refused("it takes too much memory to compute with")
    return Comparison(False, "algebra", detail, "error")


def boxed_reference(prompt: Prompt) -> str | None:
    """The completion that is right if anything is: the reference in a box."""
    return rf"\boxed{{{wanted_of(prompt.answer)}}}" if prompt.answer.strip() else None


@reward("math", needs_answer=True, gold=boxed_reference)
def math(rollout: Rollout) -> Score:
    r"""1 where the last `\boxed{}` (else the line after the last `####`) is the reference, as text or as mathematics.

    Equal: by one spelling of both texts; else as exact numbers, fractions, percents, quantities, sets, tuples,
    intervals and matrices; else by math-verify, within 1.3 s in a process of its own. Not counted: a box in the
    thinking, different boxes side by side, an equation between numbers, a list where one value is asked for, an
    expression of the prompt given back. The reference may be an answer or a solution that names it in a box.
    """
    wanted = wanted_of(reference(rollout))
    found = boxed_or_marked(rollout.text, rollout.prompt.text, max(LONGEST_ANSWER, 2 * len(wanted)))
    if found.fault:
        return Score(0.0, "ok" if found.is_there else "no_answer", detail=found.fault)
    return compare(wanted, found.text, rollout.prompt.text).score()


@reward("soft_math", needs_answer=True, gold=boxed_reference)
def soft_math(rollout: Rollout) -> Score:
    r"""1 for the reference's number, 0.5 within 10 % of it, 0.2 for any other number; else 0.

    The answer is the last `\boxed{}`, else the line after `####`, else the last number outside the thinking.
    """
    wanted = _single_number(wanted_of(reference(rollout)))
    if wanted is None:
        raise ValueError(f"the reference answer of {rollout.prompt.id} is no number: {rollout.prompt.answer!r}")
    found = boxed_or_marked(rollout.text, rollout.prompt.text)
    if found.is_there and found.fault:
        return Score(0.0, detail=found.fault)
    if found.text:
        given = _single_number(found.text)
    else:
        *_, given = [None, *(Fraction(number) for number in _finite(after_thinking(rollout.text, rollout.prompt.text)))]
    if given is None:
        return Score(0.0, "no_answer", detail="the answer is no number")
    distance = abs(given - wanted)
    if distance <= Fraction(1, 100_000):
        return Score(1.0)
    return Score(0.5 if distance * 10 <= abs(wanted) else 0.2)


def _finite(text: str | None) -> list[float]:
    return [number for number in numbers(text or "") if abs(number) < 1e300]


def _single_number(text: str) -> Fraction | None:
    parts = members(normalise(text))
    if any(HAS_DIGIT.search(part) for part in parts[:-1]):
        return None
    quantity = split_unit(parts[-1])
    value = value_of(quantity.text)
    if value is None or value.number is None:
        return None
    return value.number / 100 if quantity.is_percent else value.number
