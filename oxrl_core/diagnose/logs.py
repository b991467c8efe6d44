"""Known failures in logs of any size: the earliest root in time, never a wrapper where there is a root."""

from __future__ import annotations

import importlib
import os
import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from oxrl_core.diagnose.tables import Signature, all_signatures
from oxrl_core.runs.logs import clean_line

HEAD_BYTES = 8 * 2**20  # what is read of a huge log: its beginning, and
TAIL_BYTES = 24 * 2**20  # its end, where a failure is
MAX_HITS = 200  # of one signature in one log: the same error in a loop
MAX_LINE = 8000
OF_A_KIND = 3  # lines that differ in their numbers alone: which of them are looked at
_ENVELOPE_BYTES = 2048  # between the first line of a validation error and what it carries
SAME_MOMENT_SECONDS = 1.0  # clocks of several processes in one log

# A line of a configuration dump: vLLM prints its own with `chat_template=None` and a hundred others. It is no failure.
_SETTING = re.compile(rb"""\b\w+=|['"][\w.-]+['"]:\s""")
_MANY_SETTINGS = 8
# What the driver shows of the model's own words is no failure either.
_SHOWN = re.compile(rb"^\s+(?:best )?of step \d+")
# The source line of a traceback: it says what would be raised, the last line of the traceback what was.
_SOURCE = re.compile(rb"^\s+(?:raise\b|msg\s*=|f?[\"'])")
_TIME = re.compile(rb"(?:\d{4}-)?(?P<day>\d{2}-\d{2})[ T](?P<h>\d{2}):(?P<m>\d{2}):(?P<s>\d{2})(?:[.,](?P<f>\d{1,6}))?")
_ESCAPE = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]")


@dataclass(frozen=True)
class Hit:
    """A signature in a log."""

    signature: Signature
    log: str
    offset: int
    line: str
    numbers: dict[str, str] = field(default_factory=dict[str, str])
    seconds: float | None = None  # of the day, where the line or one above it says so

    @property
    def id(self) -> str:
        return self.signature.id


@dataclass(frozen=True)
class Verdict:
    """What the logs say: the first root, other roots that it could as well be, and wrappers."""

    root: Hit | None
    rivals: list[Hit] = field(default_factory=list[Hit])
    wrappers: list[Hit] = field(default_factory=list[Hit])

    @property
    def is_ambiguous(self) -> bool:
        return bool(self.rivals)


def search_logs(paths: Sequence[Path]) -> Verdict:
    """The verdict on several logs of one run."""
    hits = [hit for path in paths for hit in hits_in(read_bounded(path), path.stem)]
    return judge(hits)


def search_text(text: str, log: str = "text") -> Verdict:
    """The verdict on a text."""
    return judge(hits_in(text.encode(), log))


def judge(hits: Sequence[Hit]) -> Verdict:
    """The earliest root in time. Roots of other logs without a clock, or of the same line, are its rivals."""
    roots = _in_order(_without_envelopes([hit for hit in hits if not hit.signature.is_wrapper]))
    wrappers = _in_order([hit for hit in hits if hit.signature.is_wrapper])
    if not roots:
        return Verdict(None, wrappers=wrappers)
    first = roots[0]
    rivals: dict[str, Hit] = {}
    for other in roots[1:]:
        if other.id == first.id or other.id in rivals:
            continue
        same_line = other.log == first.log and other.offset == first.offset
        elsewhere = other.log != first.log and not _is_later(other, first)
        if same_line or elsewhere:
            rivals[other.id] = other
    return Verdict(first, list(rivals.values()), wrappers)


def _without_envelopes(roots: list[Hit]) -> list[Hit]:
    """The roots but those errors of pydantic that carry another one: a validator's own words stand right below."""

    def carries(hit: Hit, other: Hit) -> bool:
        return other.id != hit.id and other.log == hit.log and 0 <= other.offset - hit.offset <= _ENVELOPE_BYTES

    return [hit for hit in roots if hit.id != "pyd" or not any(carries(hit, other) for other in roots)]


def _in_order(hits: Iterable[Hit]) -> list[Hit]:
    """By time where all know it, else by place: the driver's log before those of others."""
    found = list(hits)
    if all(hit.seconds is not None for hit in found):
        return sorted(found, key=lambda hit: (hit.seconds or 0.0, hit.log != "driver", hit.offset))
    return sorted(found, key=lambda hit: (hit.log != "driver", hit.log, hit.offset))


def _is_later(hit: Hit, than: Hit) -> bool:
    if hit.seconds is None or than.seconds is None:
        return False
    return hit.seconds - than.seconds > SAME_MOMENT_SECONDS


def hits_in(data: bytes, log: str) -> list[Hit]:
    """Every signature in the bytes of a log, in the first lines of each kind."""
    found: list[Hit] = []
    thin, places, originals = _first_of_each_kind(data)
    for signature, literals in _literals():
        starts: set[int] = set()
        for literal in literals:
            position = thin.find(literal)
            while position >= 0 and len(starts) < MAX_HITS:
                line = bisect_right(places, position) - 1
                start = originals[line]
                end = places[line + 1] if line + 1 < len(places) else len(thin)
                if start not in starts:
                    starts.add(start)
                    length = end - places[line] - 1  # without its newline
                    hit = _hit(signature, data, start, start + min(length, MAX_LINE), log)
                    if hit is not None:
                        found.append(hit)
                position = thin.find(literal, end)
    return found


def _first_of_each_kind(data: bytes) -> tuple[bytes, list[int], list[int]]:
    """The lines that differ from all before in more than their numbers, where each begins there, and in the log.

    A long log is the same line thousands of times; what a failure says stands in the first one of its kind.
    """
    seen: dict[bytes, int] = {}
    kept: list[bytes] = []
    places: list[int] = []
    originals: list[int] = []
    start = length = 0
    for line in data.split(b"\n"):
        kind = line.translate(None, b"0123456789")
        times = seen.get(kind, 0)
        if times < OF_A_KIND and line:
            seen[kind] = times + 1
            kept.append(line)
            places.append(length)
            originals.append(start)
            length += len(line) + 1
        start += len(line) + 1
    return b"\n".join([*kept, b""]), places, originals


def _hit(signature: Signature, data: bytes, start: int, end: int, log: str) -> Hit | None:
    raw = _ESCAPE.sub(b"", data[start:end])
    if _SHOWN.match(raw) or _SOURCE.match(raw) or len(_SETTING.findall(raw)) >= _MANY_SETTINGS:
        return None
    line = clean_line(raw.decode("utf-8", errors="replace"))
    match = _compiled(signature.regex).search(line)
    if match is None:
        return None
    numbers = {name: value for name, value in match.groupdict().items() if value is not None}
    return Hit(signature, log, start, line.strip(), numbers, _seconds(data, start, end))


def _seconds(data: bytes, start: int, end: int) -> float | None:
    """Seconds of the month at a line: its own clock, or the nearest of the 4 kB above it."""
    match = _TIME.search(data, start, end)
    if match is None:
        above = list(_TIME.finditer(data, max(0, start - 4096), start))
        match = above[-1] if above else None
    if match is None:
        return None
    day = int(match["day"][3:])
    fraction = float(b"0." + (match["f"] or b"0"))
    return day * 86400 + int(match["h"]) * 3600 + int(match["m"]) * 60 + int(match["s"]) + fraction


def read_bounded(path: Path) -> bytes:
    """The whole log, or of a huge one its beginning and its end."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= HEAD_BYTES + TAIL_BYTES:
                return file.read(HEAD_BYTES + TAIL_BYTES)
            head = os.pread(file.fileno(), HEAD_BYTES, 0)
            return head + b"\n" + os.pread(file.fileno(), TAIL_BYTES, size - TAIL_BYTES)
    except OSError:
        return b""


@cache
def _compiled(regex: str) -> re.Pattern[str]:
    return re.compile(regex)


@cache
def _literals() -> tuple[tuple[Signature, tuple[bytes, ...]], ...]:
    """Each signature with texts of which one must stand in a line that it matches: those are found without a regex."""
    return tuple(
        (signature, tuple(text.encode() for text in literals_of(signature.regex)))
        for signature in all_signatures().values()
    )


def literals_of(regex: str) -> list[str]:
    """The longest plain text of each alternative of a regular expression."""
    reader: Any = importlib.import_module("re._parser")  # the library's own reading; stable since Python 3.11
    return _longest(reader.parse(regex))


def _longest(sequence: Any) -> list[str]:
    """The longest run of plain characters of a sequence, or of each branch that it must go through."""
    best: list[str] = []
    run = ""

    def worth(texts: list[str]) -> int:
        return min((len(text) for text in texts), default=0)

    for operation, argument in sequence:
        name = str(operation)
        if name == "LITERAL":
            run += chr(argument)
            continue
        if worth([run] if run else []) > worth(best):
            best = [run]
        run = ""
        inner: list[str] = []
        if name == "SUBPATTERN":
            inner = _longest(argument[3])
        elif name == "BRANCH":
            branches = [_longest(branch) for branch in argument[1]]
            inner = [text for texts in branches for text in texts] if all(branches) else []
        if worth(inner) > worth(best):
            best = inner
    if worth([run] if run else []) > worth(best):
        best = [run]
    return best


def log_paths(folder: Path) -> list[Path]:
    """The logs of a run, the driver's first; Ray's own ones where they stand beside it."""
    found = sorted(folder.glob("*.log"), key=lambda path: (path.stem != "driver", path.name))
    return [*found, *sorted(folder.glob("*/*.log"))[:64], *sorted(folder.glob("*/*.err"))[:64]]


def explain(verdict: Verdict) -> Mapping[str, str]:
    """The first root and its rivals with their lines, for whoever writes a report."""
    hits = ([verdict.root] if verdict.root else []) + verdict.rivals
    return {hit.id: hit.line for hit in hits}
