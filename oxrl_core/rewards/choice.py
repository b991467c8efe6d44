"""The reward of multiple choice."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

from oxrl_core.rewards.answers import after_thinking, boxes, plain_digits
from oxrl_core.rewards.base import reward
from oxrl_core.rewards.text import reference
from oxrl_core.types import Prompt, Rollout, Score

Letters = Annotated[str, Field(pattern="^[A-Z]{2,26}$")]

STATED = re.compile(
    r"(?:\banswer\s+is\s*:?|\banswer\s*:)\s*[*_$\\({\[\"' ]*(?:boxed\{|text\{)*\(?([A-Za-z])(?![A-Za-z'])",
    re.IGNORECASE,
)
ALSO = re.compile(r"^[)\]}*_.\"' ]*(?:,|/|&|\bor\b|\band\b)\s*(?:option\s+)?[*_\"'(\[ ]*([A-Z])(?![A-Za-z'])")
LONE = re.compile(r"(?<![A-Za-z0-9'])([A-Z])(?![A-Za-z0-9'])")
SMALL_WORD = re.compile(r"\s(?!or\b|and\b)[a-z]")
NOT = re.compile(r"\b(?:not|isn't|never|n't)\W*(?:option\s+|choice\s+)?\W*$", re.IGNORECASE)
REFERENCE = re.compile(r"[\s(\[*]*([A-Z])[\s)\].:,*]*(?:$|(?<=[).:\]])\s*\S.*)", re.DOTALL)


def letter_of(text: str, letters: str) -> tuple[str, str]:
    """The letter that a text settles on, or nothing and why."""
    text = plain_digits(text)
    held = boxes(text)
    if held:
        whole = re.fullmatch(r"\\text\{(.*)\}|(.*)", held[-1].content, re.DOTALL)
        content = (whole[1] or whole[2] or "").strip(" ().") if whole else ""
        return (content, "") if len(content) == 1 and content in letters else ("", "the box holds no single letter")
    stated = [match for match in STATED.finditer(text) if match[1].upper() in letters and _is_letter(match, text)]
    if stated:
        other = ALSO.match(text[stated[-1].end() : stated[-1].end() + 40])
        if other and other[1] in letters and other[1] != stated[-1][1].upper():
            return "", "several letters are given"
        return stated[-1][1].upper(), ""
    lone = [match for match in LONE.finditer(text) if match[1] in letters and not _is_word(match, text)]
    if not lone:
        return "", "no letter is given"
    last = lone[-1]
    if NOT.search(text[max(0, last.start() - 24) : last.start()]):
        return "", "the last letter is ruled out, and none is chosen"
    line = text.rfind("\n", 0, last.start()) + 1
    beside = [match for match in lone[:-1] if match.start() >= line]
    if beside and beside[-1][1] != last[1] and ALSO.match(text[beside[-1].end() :]):
        return "", "several letters are given"
    return last[1], ""


def _is_letter(match: re.Match[str], text: str) -> bool:
    """A small letter counts only in brackets: "the answer is a matter of taste" gives none."""
    if match[1].isupper():
        return not _is_word(match, text)
    return text[match.start(1) - 1] == "(" and text[match.end() : match.end() + 1] == ")"


def _is_word(match: re.Match[str], text: str) -> bool:
    """Whether an A is the article, and an I the writer: a small word follows."""
    return match[1] in "AI" and SMALL_WORD.match(text, match.end(1)) is not None


def letter_of_reference(answer: str, letters: str) -> str | None:
    """The letter of a reference such as `B`, `(B)` or `B) Paris`."""
    match = REFERENCE.fullmatch(answer.strip())
    return match[1] if match and match[1] in letters else None


def stated_reference(prompt: Prompt, *, letters: str) -> str | None:
    """The completion that says the reference's letter."""
    letter = letter_of_reference(prompt.answer, letters)
    return f"The answer is ({letter})" if letter else (prompt.answer or None)


@reward("mcqa", needs_answer=True, gold=stated_reference)
def mcqa(rollout: Rollout, *, letters: Letters = "ABCDEFGHIJ") -> Score:
    r"""1 where the letter is the reference's: of a box, else of the last "The answer is (X)" or "Answer: X", else the
    last lone capital.

    Counted is what stands outside the thinking. Two letters at once, and a letter that is ruled out, are wrong.
    `letters`: those that can be chosen.
    """
    wanted = letter_of_reference(reference(rollout), letters)
    if wanted is None:
        raise ValueError(f"the reference answer of {rollout.prompt.id} names no letter: {rollout.prompt.answer!r}")
    rest = after_thinking(rollout.text, rollout.prompt.text)
    if rest is None:
        return Score(0.0, "no_answer", detail="the thinking does not end")
    letter, fault = letter_of(rest, letters)
    if not letter:
        return Score(0.0, "ok" if fault.startswith("several") else "no_answer", detail=fault)
    return Score(float(letter == wanted))
