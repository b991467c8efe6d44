"""Rewards of a completion's form: how it is written, and its tags for thinking and answer."""

from __future__ import annotations

import re
from typing import Literal

from oxrl_core.rewards.answers import boxed_or_marked, opens_thinking
from oxrl_core.rewards.base import reward
from oxrl_core.rewards.mathematics import compare, wanted_of
from oxrl_core.rewards.text import reference
from oxrl_core.types import Prompt, Rollout, Score

LONG = 50  # characters
BLANK_LINE = re.compile(r"\n[^\S\n]*\n")  # of a stripped text: it stands between two others
OPEN = re.compile(r"<(?:think|thinking|thought)>", re.IGNORECASE)
CLOSE = re.compile(r"</(?:think|thinking|thought)>", re.IGNORECASE)
ANSWER_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
LONGEST = 200  # characters of an answer
THINKING, ANSWERING, RIGHT, BOXED = 0.2, 0.2, 0.6, 0.4


@reward("format")
def format_(rollout: Rollout) -> Score:
    """0.25 each for more than 50 characters, a blank line between two others, not beginning with "I", and having
    stopped by itself.

    An empty completion has no form: 0.
    """
    text = rollout.text.strip()
    if not text:
        return Score(0.0, "no_answer", detail="the completion is empty")
    claims = {
        "long": len(text) > LONG,
        "blank_line": BLANK_LINE.search(text) is not None,
        "not_i": not text.startswith("I"),
        "stopped": rollout.finish_reason == "stop",
    }
    parts = {name: 0.25 * holds for name, holds in claims.items()}
    return Score(sum(parts.values()), parts=parts)


def tagged_reference(prompt: Prompt, *, mode: str) -> str | None:
    """The completion with everything in its place."""
    if not prompt.answer.strip():
        return None
    opening = "" if opens_thinking(prompt.text) else "<think>\n"
    return f"{opening}This is the reference.\n</think>\n<answer>{wanted_of(prompt.answer)}</answer>"


@reward("reasoning", needs_answer=True, gold=tagged_reference)
def reasoning(rollout: Rollout, *, mode: Literal["soft", "strict"] = "soft") -> Score:
    r"""0.2 for thinking in its tags, 0.2 for an answer in its tags, 0.6 for the right one; strict: 1 or 0.

    Each pair of tags counts once, closed, not empty, the thinking (think, thinking or thought) before the answer; a
    template that writes `<think>` itself has opened it. A right `\boxed{}` without answer tags is worth 0.4 in place
    of the last two. strict: exactly `<think>...</think><answer>...</answer>` and right, all else is 0. Right is what
    the reward `math` calls equal.
    """
    wanted = wanted_of(reference(rollout))
    prompt = rollout.prompt.text
    thought, rest = split_thinking(rollout.text, prompt)
    answer, is_alone = tagged_answer(rest)
    parts = {"thinking": THINKING * thought, "tags": ANSWERING * (answer is not None), "right": 0.0}
    is_exact = thought and is_alone
    if mode == "strict" and not is_exact:
        return Score(0.0, "no_answer" if answer is None else "ok", parts, "not the structure that is asked for")
    worth, detail = (RIGHT, "") if answer is not None else (BOXED, "no answer tags")
    if answer is None and not ANSWER_TAG.search(rest):
        found = boxed_or_marked(rest, "")
        answer, detail = (found.text or None), found.fault or detail
    if answer is None:
        return Score(sum(parts.values()), "no_answer", parts, detail)
    held = boxed_or_marked(answer, "") if "boxed" in answer else None
    if held is not None and held.fault:
        return Score(0.0 if mode == "strict" else sum(parts.values()), "ok", parts, held.fault)
    verdict = compare(wanted, held.text if held else answer, prompt)
    if verdict.status != "ok":
        return Score(float("nan"), verdict.status, parts, verdict.detail)
    parts["right"] = worth * verdict.is_equal
    value = float(verdict.is_equal) if mode == "strict" else round(sum(parts.values()), 10)
    return Score(value, "ok", parts, verdict.detail or detail)


def split_thinking(text: str, prompt: str) -> tuple[bool, str]:
    """Whether the text thinks once, first, in closed tags and not of nothing; and what stands after that.

    Behind thinking that never ends there is nothing; a text that opens no thinking is all answer.
    """
    opened, closed = list(OPEN.finditer(text)), list(CLOSE.finditer(text))
    if not closed:
        return False, "" if opened or opens_thinking(prompt) else text
    rest = text[closed[-1].end() :]
    if OPEN.search(rest):
        return False, ""
    if opens_thinking(prompt) and not opened:
        start = 0
    elif len(opened) == 1 and not text[: opened[0].start()].strip():
        start = opened[0].end()
    else:
        return False, rest
    return len(closed) == 1 and bool(text[start : closed[0].start()].strip()), rest


def tagged_answer(rest: str) -> tuple[str | None, bool]:
    """The one answer in tags, and whether nothing stands beside it; None where there is none, or more than one."""
    tags = list(ANSWER_TAG.finditer(rest))
    if [tag[1] for tag in tags] != ["", "/"]:
        return None, False
    answer = rest[tags[0].end() : tags[1].start()].strip()
    if not answer or len(answer) > LONGEST:
        return None, False
    return answer, not rest[: tags[0].start()].strip() and not rest[tags[1].end() :].strip()
