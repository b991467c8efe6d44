"""Tokens as text, from the tokenizer.json of a run. Only its vocabulary is read: no tokenizer library is needed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

Pieces = Callable[[Sequence[int]], list[str]]
BYTE_PIECE = re.compile(r"^<0x([0-9A-Fa-f]{2})>$")


def read_pieces(path: Path) -> Pieces | None:
    """What turns token ids into their texts, one each; None where there is no such file to read."""
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
        vocabulary = _vocabulary(document)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    listed = cast("list[dict[str, Any]]", document.get("added_tokens") or [])
    added = {int(token["id"]): str(token["content"]) for token in listed}
    as_bytes = _uses_bytes(document)

    def pieces(token_ids: Sequence[int]) -> list[str]:
        return [
            added[token] if token in added else _text(vocabulary.get(token), token, as_bytes) for token in token_ids
        ]

    return pieces


def _vocabulary(document: dict[str, Any]) -> dict[int, str]:
    words = document["model"]["vocab"]
    if isinstance(words, dict):  # BPE, WordPiece, WordLevel: piece -> id
        return {int(token): piece for piece, token in cast("dict[str, Any]", words).items()}
    return {token: str(entry[0]) for token, entry in enumerate(cast("list[Any]", words))}  # Unigram: [piece, score]


def _uses_bytes(document: dict[str, Any]) -> bool:
    """Whether its pieces spell bytes with printable characters, as GPT-2's do."""
    return '"ByteLevel"' in json.dumps([document.get("decoder"), document.get("pre_tokenizer")])


def _byte_table() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes stand for themselves, the others for characters from 256 on."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {chr(byte): byte for byte in plain}
    others = [byte for byte in range(256) if byte not in set(plain)]
    return table | {chr(256 + index): byte for index, byte in enumerate(others)}


BYTES = _byte_table()


def _text(piece: str | None, token: int, as_bytes: bool) -> str:
    if piece is None:
        return f"<{token}>"
    if as_bytes and all(character in BYTES for character in piece):
        # A character may be spread over several tokens: its single bytes are shown as \xe2.
        return bytes(BYTES[character] for character in piece).decode("utf-8", errors="backslashreplace")
    byte = BYTE_PIECE.match(piece)
    if byte is not None:
        return bytes([int(byte[1], 16)]).decode("utf-8", errors="backslashreplace")
    return piece.replace("▁", " ")
