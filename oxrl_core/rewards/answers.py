"""Where a completion says its answer: behind its thinking, in its last box, tag or `####`. Linear in the text."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

MARK = "####"  # GSM8K's solutions name their result after it
LONGEST_ANSWER = 200  # characters; a longer one is a text, or a net cast wide
MOST_BOXES = 3  # different ones; more are guesses

OPEN_THINKING = re.compile(r"<(?:think|thinking|thought)>", re.IGNORECASE)
CLOSE_THINKING = re.compile(r"</(?:think|thinking|thought)>", re.IGNORECASE)
BOX_OR_BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|\\[{}\\]|[{}]")
PARAGRAPH = re.compile(r"\n\s*\n")
SPACE = re.compile(r"\s+")


@dataclass(frozen=True)
class Found:
    """The answer of a text, or why there is none to compare."""

    text: str = ""
    fault: str = ""  # why what stands there does not count
    is_there: bool = True  # False: the text gives no answer at all


@dataclass(frozen=True)
class Box:
    """One `\\boxed{...}` of a text."""

    content: str
    start: int
    end: int


def missing(reason: str) -> Found:
    """No answer was given."""
    return Found(fault=reason, is_there=False)


def plain_digits(text: str) -> str:
    """The text with the decimal digits of every script as 0-9, and without characters that show nothing."""
    if text.isascii():
        return text
    characters: list[str] = []
    for character in text:
        category = unicodedata.category(character) if character > "\x7f" else ""
        if category == "Nd":
            characters.append(str(unicodedata.digit(character)))
        elif category != "Cf":  # zero-width spaces and joiners, direction marks
            characters.append(character)
    return "".join(characters)


def after_thinking(text: str, prompt: str = "") -> str | None:
    """What stands behind the last thinking tag; None where thinking was opened (by the prompt too) and not closed."""
    *_, last = [None, *CLOSE_THINKING.finditer(text)]
    rest = text if last is None else text[last.end() :]
    is_open = OPEN_THINKING.search(rest) is not None or (last is None and opens_thinking(prompt))
    return None if is_open else rest


def opens_thinking(prompt: str) -> bool:
    """Whether the prompt's template has written the opening tag already."""
    return bool(prompt) and re.search(r"<(?:think|thinking|thought)>\s*$", prompt[-64:], re.IGNORECASE) is not None


def boxes(text: str) -> list[Box]:
    """Every closed box that stands in no other box, in order."""
    found: list[Box] = []
    opened: list[tuple[int, int] | None] = []  # where a box and its content began; None: a plain brace
    for match in BOX_OR_BRACE.finditer(text):
        token = match.group()
        if len(token) > 2:
            opened.append((match.start(), match.end()))
        elif token == "{":
            opened.append(None)
        elif token == "}" and opened:
            place = opened.pop()
            if place is None:
                continue
            while found and found[-1].start > place[0]:  # those inside this one
                found.pop()
            found.append(Box(text[place[1] : match.start()].strip(), place[0], match.end()))
    return found


def boxed_or_marked(text: str, prompt: str = "", longest: int = LONGEST_ANSWER) -> Found:
    """What the last box of a completion holds, else the line after its last `####`.

    Not counted: what stands in the thinking, a line copied from the prompt, and one of several different boxes of one
    paragraph. More than three different boxes are guesses, whichever is the last.
    """
    rest = after_thinking(text, prompt)
    if rest is None:
        return missing("the thinking does not end")
    own = _not_copied(boxes(rest), rest, prompt) if "\\" in rest else []
    if own:
        found = _last_of(own, rest)
    elif MARK in rest:
        line = rest.rpartition(MARK)[2].strip().partition("\n")[0].strip()
        found = Found(line) if line else missing(f"nothing stands after {MARK}")
    else:
        return missing(f"there is no closed \\boxed{{}} and no {MARK} outside the thinking")
    if len(found.text) > longest:
        return Found(fault=f"an answer of {len(found.text)} characters")
    return found


def _last_of(own: list[Box], rest: str) -> Found:
    content = _unwrapped(own[-1].content)
    if not content:
        return missing("the last box is empty")
    contents = {SPACE.sub("", _unwrapped(box.content)) for box in own}
    if len(contents) > MOST_BOXES:
        return Found(fault=f"{len(contents)} different boxes")
    *_, paragraph = [0, *(match.end() for match in PARAGRAPH.finditer(rest, 0, own[-1].start))]
    beside = {SPACE.sub("", _unwrapped(box.content)) for box in own if box.start >= paragraph}
    return Found(fault="different boxes in one paragraph") if len(beside) > 1 else Found(content)


def _unwrapped(content: str) -> str:
    """The content of a box in a box; `\\boxed{\\boxed{4}}` says 4."""
    for _ in range(8):
        inner = boxes(content) if "boxed" in content or "fbox" in content else []
        if len(inner) != 1 or inner[0].end - inner[0].start != len(content):
            return content
        content = inner[0].content
    return content


def _not_copied(found: list[Box], text: str, prompt: str) -> list[Box]:
    """The boxes that stand in no line of the prompt. A line that holds nothing but the box may be anybody's."""
    if not prompt or ("boxed" not in prompt and "fbox" not in prompt):
        return found
    lines = {line.strip() for line in prompt.splitlines()}
    own: list[Box] = []
    for box in found:
        start, end = text.rfind("\n", 0, box.start) + 1, text.find("\n", box.end)
        line = text[start : end if end >= 0 else len(text)].strip()
        if line not in lines or len(line) <= box.end - box.start + 4:  # $$...$$
            own.append(box)
    return own
