"""Logs from both ends: the last lines of a file of any size, and the next ones after a byte offset."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_MAX_LOG_LINE = 4000
_MAX_GREP_BYTES = 64 * 2**20
_LOG_BLOCK = 2**16
_FIRST_BLOCK = 2**13  # most readers want a few lines
# Colours, cursor moves and other control characters; outside text must not steer a terminal or hide itself.
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b.|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_INVISIBLE = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]")


@dataclass(frozen=True)
class LogChunk:
    """Lines of a log, and the byte offset from which to read on."""

    lines: list[str]
    cursor: int
    total_bytes: int


def read_log(path: Path, cursor: int | None = None, lines: int = 100, grep: str = "") -> LogChunk:
    """Without a cursor the last lines, with one the next lines after it; `grep` keeps lines that hold the text."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if cursor is None:
            return _read_tail(file.fileno(), size, lines, grep)
        return _read_forward(file.fileno(), size, max(0, cursor), lines, grep)


def end_last_line(path: Path) -> None:
    """Finish the last line of a log whose writer has died inside it, so that readers of whole lines see it."""
    with path.open("ab+") as file:
        size = file.tell()
        if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
            file.write(b"\n")


def say_aside(text: str) -> None:
    """A line on stderr, where it can be written: a full disk below it ends nobody who only wants to say so."""
    with suppress(OSError):
        os.write(2, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n".encode())


def clean_line(text: str) -> str:
    """One log line without colours, control and invisible characters; of a redrawn progress bar the last drawing."""
    text = text.rstrip("\r")
    text = _INVISIBLE.sub("", _CONTROL.sub("", text[text.rfind("\r") + 1 :]))
    more = len(text) - _MAX_LOG_LINE
    return text if more <= 0 else f"{text[:_MAX_LOG_LINE]} [{more} more characters]"


def _decode(line: bytes) -> str:
    return clean_line(line.decode("utf-8", errors="replace"))


def _read_tail(descriptor: int, size: int, lines: int, grep: str) -> LogChunk:
    """The last matching lines, read from the end in blocks: a log may be many gigabytes."""
    found: list[str] = []
    start, rest = size, b""
    while start > 0 and len(found) < lines and size - start < _MAX_GREP_BYTES:
        block_start = max(0, start - (_LOG_BLOCK if start < size else _FIRST_BLOCK))
        block = os.pread(descriptor, start - block_start, block_start) + rest
        start = block_start
        pieces = block.split(b"\n")
        rest = pieces.pop(0)[-_LOG_BLOCK:] if start > 0 else b""  # of an endless line its end is enough
        for piece in reversed(pieces):
            if piece and len(found) < lines:
                line = _decode(piece)
                if grep in line:
                    found.append(line)
    return LogChunk(found[::-1], size, size)


def _read_forward(descriptor: int, size: int, cursor: int, lines: int, grep: str) -> LogChunk:
    found: list[str] = []
    position, rest = min(cursor, size), b""
    consumed = position
    while position < size and len(found) < lines and position - cursor < _MAX_GREP_BYTES:
        block = os.pread(descriptor, min(_LOG_BLOCK, size - position), position)
        if not block:
            break
        position += len(block)
        *pieces, rest = (rest + block).split(b"\n")
        for piece in pieces:
            if len(found) == lines:
                break
            consumed += len(piece) + 1
            if piece:
                line = _decode(piece)
                if grep in line:
                    found.append(line)
        if len(rest) > _LOG_BLOCK:  # a line without an end must not be read again and again
            consumed += len(rest)
            line = _decode(rest)
            if grep in line:
                found.append(line)
            rest = b""
    return LogChunk(found, consumed, size)
