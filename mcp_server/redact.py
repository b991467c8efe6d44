"""Text made safe to leave the process: secrets masked, terminal codes and invisible characters removed.

Logs and dataset rows are written by others. A token in them would otherwise reach a model's context and, from there,
anywhere; invisible and bidirectional characters can hide instructions from the person who reads along.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MASK = "[redacted]"
SHORTEST_SECRET = 8  # shorter values ("true", "4") would mask ordinary words

_SECRET_NAME = re.compile(
    r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|PRIVATE_KEY|KEY|CREDENTIALS?)$", re.IGNORECASE
)

_FORMATS = re.compile(
    r"""
    -----BEGIN\ [A-Z ]*PRIVATE\ KEY-----.*?-----END\ [A-Z ]*PRIVATE\ KEY-----
    | \bhf_[A-Za-z0-9]{16,}                              # Hugging Face
    | \bgh[pousr]_[A-Za-z0-9]{20,} | \bgithub_pat_\w{20,}
    | \bglpat-[\w-]{16,}
    | \bsk-[A-Za-z0-9_-]{16,}                            # OpenAI, Anthropic
    | \bAIza[\w-]{30,}                                   # Google
    | \b(?:AKIA|ASIA)[0-9A-Z]{16}\b                      # AWS
    | \bxox[abeoprs]-[\w-]{10,}                          # Slack
    | \beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}               # JSON web token
    """,
    re.VERBOSE | re.DOTALL,
)
# The name stays, the value goes: the reader still learns which secret was there.
_NAMED = re.compile(
    r"""(\b[A-Z][A-Z0-9_]*(?:TOKEN|SECRET|PASSWORD|API_?KEY|ACCESS_KEY|PRIVATE_KEY)["']?\s*[=:]\s*["']?)"""
    rf"""([^\s"',;]{{{SHORTEST_SECRET},}})"""
)
_AUTHORIZATION = re.compile(
    r"(\b(?:Authorization\s*:\s*(?:Bearer|Basic|Token)|Bearer)\s+)([\w.~+/=-]{8,})", re.IGNORECASE
)
_URL_USER = re.compile(r"(\b[a-z][a-z0-9+.-]*://)([^\s/@:]+(?::[^\s/@]*)?)@", re.IGNORECASE)

_TERMINAL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_INVISIBLE: dict[int, None] = dict.fromkeys(
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


class Redactor:
    """Masks known secret formats and the literal values of an environment's own secrets."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        values = {
            value
            for name, value in environment.items()
            if _SECRET_NAME.search(name) and len(value) >= SHORTEST_SECRET and not value.startswith(("/", "~"))
        }
        # Longest first, so that a secret which contains another one is masked whole.
        literals = "|".join(re.escape(value) for value in sorted(values, key=len, reverse=True))
        self._literals = re.compile(literals) if literals else None

    def text(self, text: str) -> str:
        """The text without secrets, terminal codes and invisible characters."""
        text = _TERMINAL.sub("", text).translate(_INVISIBLE)
        if self._literals is not None:
            text = self._literals.sub(MASK, text)
        text = _FORMATS.sub(MASK, text)
        text = _AUTHORIZATION.sub(rf"\1{MASK}", text)
        text = _NAMED.sub(rf"\1{MASK}", text)
        return _URL_USER.sub(rf"\1{MASK}@", text)

    def tree(self, value: Any) -> Any:
        """A JSON value with every string in it made safe."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.tree(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
        if isinstance(value, dict):
            return {self.text(str(key)): self.tree(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        return value
