"""The reward of questions about images and sounds: it reads the text of the answer."""

from __future__ import annotations

import re

from oxrl_core.rewards.answers import after_thinking, boxes, plain_digits
from oxrl_core.rewards.base import reward
from oxrl_core.rewards.number import TOLERANCE, final_number, numbers
from oxrl_core.rewards.text import reference
from oxrl_core.types import Prompt, Rollout, Score

MODALITY = re.compile(
    r"\b(?:images?|pictures?|photos?|photographs?|diagrams?|charts?|figures?|screenshots?|audio|sounds?|recordings?"
    r"|speech|voices?|videos?|clips?|frames?)\b",
    re.IGNORECASE,
)
WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
MOST_WORDS = 64  # judged at the end of a text: a net of a hundred guesses catches anything
NUMERAL = re.compile(r"[-+]?[$€£]?\s*[\d,]*\.?\d+\s*%?")
NAMED = 0.2


def words_of(text: str) -> list[str]:
    """The words of a text without case and punctuation."""
    return [word.group().casefold() for word in WORD.finditer(plain_digits(text))]


def holds(words: list[str], wanted: list[str]) -> bool:
    """Whether `wanted` stands in `words`, whole and in order."""
    size = len(wanted)
    return any(words[start : start + size] == wanted for start in range(len(words) - size + 1))


def last_tagged(text: str) -> str:
    """What the last closed `<answer>` holds, or nothing."""
    small = text.lower() if text.isascii() else text
    end = small.rfind("</answer>")
    start = small.rfind("<answer>", 0, max(end, 0))
    return text[start + len("<answer>") : end] if start >= 0 else ""


def reference_itself(prompt: Prompt) -> str | None:
    """The reference, which is right if anything is."""
    return prompt.answer.strip() or None


@reward("multimodal", needs_answer=True, gold=reference_itself)
def multimodal(rollout: Rollout) -> Score:
    r"""1 for the reference's number, or for the reference as whole words; else 0.2 for naming a modality word.

    Read is the last `\boxed{}` or `<answer>` outside the thinking, else the last 64 words there. A number is the last
    one of what is read, within 1e-5.
    """
    wanted = reference(rollout)
    rest = after_thinking(rollout.text, rollout.prompt.text)
    if rest is None or not rest.strip():
        return Score(0.0, "no_answer", detail="nothing stands outside the thinking")
    held = boxes(rest)
    text = held[-1].content if held else last_tagged(rest) or rest
    if NUMERAL.fullmatch(plain_digits(wanted)):
        target, given = final_number(wanted), final_number(text)
        is_right = target is not None and given is not None and abs(target - given) <= TOLERANCE
    else:
        words = words_of(wanted)
        if not words:
            raise ValueError(f"the reference answer of {rollout.prompt.id} holds no word: {wanted!r}")
        is_right = holds(words_of(text)[-max(MOST_WORDS, len(words)) :], words)
    is_named = MODALITY.search(rest) is not None
    parts = {"right": float(is_right), "modality": float(is_named)}
    if is_right:
        return Score(1.0, parts=parts)
    has_answer = is_named or bool(numbers(text)) or bool(words_of(text))
    return Score(NAMED * is_named, "ok" if has_answer else "no_answer", parts)
