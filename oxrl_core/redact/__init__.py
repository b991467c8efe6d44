"""Text made safe to leave the process: secrets masked, terminal codes and invisible characters removed.

Logs and dataset rows are written by others. A token in them would otherwise reach a model's context and, from there,
anywhere; invisible and bidirectional characters can hide instructions from the person who reads along.

values.py    the secrets that this machine knows: of the environment and of known files, in every spelling
patterns.py  secrets known by their looks
wrapped.py   secrets that are split by line breaks or terminal codes
personal.py  names of people and machines, for what is published
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from oxrl_core.redact.patterns import (
    MASK,
    SHORTEST_SECRET,
    Span,
    format_at,
    is_secret_name,
    looks_secret,
    may_hold_secret,
    secret_spans,
)
from oxrl_core.redact.values import environment_secrets, file_secrets, spellings
from oxrl_core.redact.wrapped import INVISIBLE, TERMINAL, without_breaks, without_hidden

__all__ = ["MASK", "SHORTEST_SECRET", "Redactor", "made_visible"]

_TERMINAL = re.compile(TERMINAL)
_SHORT, _MOST_KNOWN = 120, 4096  # names, states and times of an answer come again and again
_WRITTEN_OUT = {code: f"⟨U+{code:04X}⟩" for code in INVISIBLE}


def made_visible(text: str) -> str:
    """The text with every invisible, bidirectional or control character written out, as ⟨U+202E⟩."""
    return text.translate(_WRITTEN_OUT)


class Redactor:
    """Masks known secret formats and the literal values of an environment's own secrets."""

    def __init__(self, environment: Mapping[str, str], values: Iterable[str] = ()) -> None:
        self._literals = spellings({*environment_secrets(environment), *values})
        self._known: dict[str, str] = {}
        self._names: dict[str, tuple[str, bool]] = {}

    @classmethod
    def of_this_machine(cls, environment: Mapping[str, str]) -> Redactor:
        """One that also knows the secrets in the files where tools keep theirs."""
        return cls(environment, file_secrets(Path.home(), environment))

    def text(self, text: str) -> str:
        """The text without secrets, terminal codes and invisible characters."""
        if len(text) > _SHORT:
            return self._safe(text)
        known = self._known.get(text)
        if known is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            known = self._known[text] = self._safe(text)
        return known

    def _safe(self, text: str) -> str:
        return self.masked(text if text.isprintable() else _TERMINAL.sub("", text).translate(INVISIBLE))

    def shown(self, text: str) -> str:
        """The text without secrets, and with its invisible characters written out: for whoever examines it."""
        return made_visible(self.masked(text))

    def masked(self, text: str) -> str:
        """The text without secrets. Mask before you cut: half a token is known by nobody."""
        if not may_hold_secret(text):
            return self.without_own(text)
        spans = self._spans(text)
        bare = without_hidden(text)
        if bare is not None:
            spans += [bare.original(span) for span in self._spans(bare.text)]
        spans += self._wrapped_spans(text)
        if bare is not None:
            spans += [bare.original(span) for span in self._wrapped_spans(bare.text)]
        return _without(text, spans)

    def without_own(self, text: str) -> str:
        """The text without the values of this machine's own secrets alone: for a page whose code must stay as it is."""
        return _without(text, self._literal_spans(text))

    def tree(self, value: Any) -> Any:
        """A JSON value with every string in it made safe."""
        if isinstance(value, str):
            return self._known.get(value) or self.text(value)
        if isinstance(value, list):
            return [self.tree(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
        if isinstance(value, dict):
            safe: dict[str, Any] = {}
            for key, item in value.items():  # pyright: ignore[reportUnknownVariableType]
                name, is_secret = self._names.get(key) or self._name(str(key))  # pyright: ignore[reportUnknownArgumentType]
                is_masked = is_secret and isinstance(item, str) and looks_secret(item)
                safe[name] = MASK if is_masked else self.tree(item)
            return safe
        return value

    def _name(self, key: str) -> tuple[str, bool]:
        """The key of a mapping made safe, and whether it says that its value is a secret."""
        if len(self._names) >= _MOST_KNOWN:
            self._names.clear()
        found = self._names[key] = (self.text(key), is_secret_name(key))
        return found

    def _spans(self, text: str) -> list[Span]:
        return [*self._literal_spans(text), *secret_spans(text)]

    def _wrapped_spans(self, text: str) -> list[Span]:
        """Secrets that go on in the next line."""
        joined = without_breaks(text)
        if joined is None:
            return []
        found = self._spans(joined.text)
        found += [span for joint in joined.joints if (span := format_at(joined.text, joint)) is not None]
        return [joined.original(span) for span in found]

    def _literal_spans(self, text: str) -> list[Span]:
        spans: list[Span] = []
        for literal in self._literals:
            position = text.find(literal)
            while position >= 0:
                spans.append((position, position + len(literal)))
                position = text.find(literal, position + len(literal))
        return spans


def _without(text: str, spans: list[Span]) -> str:
    """The text with every span masked; spans that overlap are one."""
    if not spans:
        return text
    pieces: list[str] = []
    place = 0
    start, end = -1, -1
    for span in sorted(spans):
        if span[0] < end:
            end = max(end, span[1])
            continue
        if end >= 0:
            pieces += [text[place:start], MASK]
            place = end
        start, end = span
    pieces += [text[place:start], MASK, text[end:]]
    return "".join(pieces)
