"""A text without what can split a secret: terminal codes, invisible characters, URL escapes, breaks of lines."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable

from oxrl_core.redact.patterns import Span, is_secret_name

TERMINAL = r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])"
INVISIBLE: dict[int, None] = dict.fromkeys(
    [
        *(code for code in range(0x20) if chr(code) not in "\t\n"),
        *range(0x7F, 0xA0),
        0xAD,
        *range(0x200B, 0x2010),
        *range(0x202A, 0x202F),
        *range(0x2060, 0x2070),
        0xFEFF,
        *range(0xE0000, 0xE0080),
    ]
)
_HIDDEN = re.compile(
    rf"{TERMINAL}|[{''.join(re.escape(chr(code)) for code in INVISIBLE)}]|%(?P<hex>[2-7][0-9A-Fa-f]|0[9AaDd])"
)
_BREAK = re.compile(r"[ \t]{0,4}(?:\n[ \t]*)+")
_TOKEN = "A-Za-z0-9+/_.~%=:@!*#$^-"
_LAST_RUN = re.compile(rf"[?&{_TOKEN}]{{1,200}}$")
_RUN = re.compile(rf"[{_TOKEN}]+")
_SCHEME = re.compile(r"(?:^|[^A-Za-z])(?:bearer|basic|digest|negotiate)$", re.IGNORECASE)
_LONG_HEX = re.compile(r"[0-9a-f]{16}$")
_HEX = re.compile(r"[0-9a-f]+")
_KEYWORD = re.compile(r"authorization|bearer|password|secret|token\b", re.IGNORECASE)
_NEW_NAME = re.compile(r"([A-Za-z_][\w.-]*)[ \t]*[=:][ \t]*[^=\s]")


class View:
    """A text with pieces of it replaced, and the way back to the text as it was."""

    def __init__(self, text: str, edits: Iterable[tuple[int, int, str]]) -> None:
        pieces: list[str] = []
        self.joints: list[int] = []  # places in the view where something was replaced
        self._starts: list[int] = [0]  # of stretches, in the view
        self._origins: list[int] = [0]  # of stretches, in the original
        begin = length = 0
        for start, end, replacement in edits:
            pieces += [text[begin:start], replacement]
            length += start - begin
            self.joints.append(length)
            if replacement:
                self._starts.append(length)
                self._origins.append(start)
                length += len(replacement)
            self._starts.append(length)
            self._origins.append(end)
            begin = end
        pieces.append(text[begin:])
        self.text = "".join(pieces)

    def original(self, span: Span) -> Span:
        """The span in the text as it was."""
        return self._place(span[0]), self._place(span[1] - 1) + 1

    def _place(self, position: int) -> int:
        index = bisect.bisect_right(self._starts, position) - 1
        return self._origins[index] + position - self._starts[index]


def without_hidden(text: str) -> View | None:
    """The text without terminal codes and invisible characters, URL escapes read; None where it has neither."""
    edits = [
        (match.start(), match.end(), chr(int(match["hex"], 16)) if match["hex"] else "")
        for match in _HIDDEN.finditer(text)
    ]
    return View(text, edits) if edits else None


def without_breaks(text: str) -> View | None:
    """The text with its wrapped lines joined; None where no line seems to be."""
    edits: list[tuple[int, int, str]] = []
    begin = 0
    for gap in _BREAK.finditer(text):
        if _is_closed(text, begin, gap):
            edits.append((gap.start(), gap.end(), ""))
            begin = gap.end()
    return View(text, edits) if edits else None


def _is_closed(text: str, begin: int, gap: re.Match[str]) -> bool:
    """Whether what stands on both sides may be one word. A new `name: value` or a word of prose begins a new one."""
    if gap[0].count("\n") > 1:
        return False
    before = _LAST_RUN.search(text, max(begin, gap.start() - 200), gap.start())
    after = _RUN.match(text, gap.end())
    if before is None or after is None:
        return False
    if _SCHEME.search(before[0]):
        return False  # the word before a credential, which ends there
    if "://" in before[0] and "@" in after[0]:
        return True
    tail = before[0][-13:]
    if any(word.start() < len(tail) < word.end() for word in _KEYWORD.finditer(tail + after[0][:13])):
        return True
    if text[gap.end()] in "=:" and is_secret_name(before[0]):
        return True
    if gap[0][0] != "\n" and before[0][-1] not in "=:":
        return False  # whoever wraps at a space does not split a word
    name = _NEW_NAME.match(text, gap.end())
    if name is not None and "://" not in before[0]:
        return is_secret_name(before[0] + name[1]) and not is_secret_name(name[1])
    ends_line = after.end() == len(text) or text[after.end()] in "\n\"'"
    if _LONG_HEX.search(before[0]) and _HEX.fullmatch(after[0]):
        return True  # the last digit of a key, alone in its line
    return any(c.isdigit() or c.isupper() for c in after[0]) or (ends_line and len(after[0]) >= 6)
