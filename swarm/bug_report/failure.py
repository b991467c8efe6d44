"""How a run failed: the exception, where it was raised, and the fingerprint by which it is known again."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from oxrl_core.runs.records import read_json
from oxrl_core.runs.rundir import RunDir

PACKAGES = ("oxrl_core", "mcp_server", "swarm", "registry", "oxrl")
ROOT = Path(__file__).parents[2]
MOST_BYTES = 2**20  # of a log's end
FRAMES_OF_FINGERPRINT = 5

_PREFIX = re.compile(r"^(?:\((?:[\w:.]+ )*pid=[^)]*\) ?|\[rank\d+\]:? ?|[ ]*[|+][ |+-]*(?=[ ]))")
_FRAME = re.compile(r'^\s*File "(?P<path>[^"\n]{1,1000})", line (?P<line>\d+), in (?P<function>.{1,200})$')
_BEGIN = re.compile(r"Traceback \(most recent call last\):|ray::\S+ \(pid=")
_END = re.compile(r"^(?P<type>[A-Za-z_][\w.]*)(?:\([\w.]+\))?(?::(?: |$)(?P<message>.*))?$")
_MARKER_LINE = re.compile(r"^[\s^~]*$")


@dataclass(frozen=True)
class Frame:
    """One place of a traceback. `place` names a file without saying where it lies on this machine."""

    owner: str  # oxrl, library, user
    place: str
    function: str
    line: int
    source: str = ""


@dataclass(frozen=True)
class Failure:
    """The exception that ended a run."""

    type: str
    message: str
    frames: Sequence[Frame] = field(default_factory=tuple[Frame, ...])

    @property
    def top(self) -> Frame | None:
        """Where it was raised."""
        return self.frames[-1] if self.frames else None

    @property
    def own_frames(self) -> list[Frame]:
        return [frame for frame in self.frames if frame.owner == "oxrl"]


def failure_of(run: RunDir) -> Failure:
    """The failure of a run, from the driver's last word and the last traceback that it left."""
    word = read_json(run.path / "error.json") or {}
    said = word or run.status().error or {}
    code, what = str(said.get("code", "")), str(said.get("what", ""))
    found = last_traceback(str(word.get("traceback", ""))) or _of_log(run, code)
    if found is None:
        return Failure(code or "Unknown", what)
    # The traceback says where; what the driver said at the end, it said with more care.
    return Failure(code or found.type, what or found.message, found.frames)


def _of_log(run: RunDir, code: str) -> Failure | None:
    """The last traceback of the driver's log, where it is of the error that ended the run."""
    try:
        with (run.logs / "driver.log").open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - MOST_BYTES))
            text = file.read(MOST_BYTES).decode(errors="replace")
    except OSError:
        return None
    found = last_traceback(text)
    return found if found is not None and code in ("", found.type) else None


def last_traceback(text: str) -> Failure | None:
    """The last traceback of a text: of an error that came from another process, the part over there."""
    last: Failure | None = None
    frames: list[Frame] = []
    is_open = False
    for raw in text.splitlines():
        line = _PREFIX.sub("", raw)
        if _BEGIN.search(line):
            frames, is_open = [], True
            continue
        if not is_open:
            continue
        match = _FRAME.match(line)
        if match is not None:
            frames.append(_frame(match))
        elif line[:1].isspace() or _MARKER_LINE.match(line):
            if frames and line.strip() and not _MARKER_LINE.match(line) and not frames[-1].source:
                frames[-1] = _with_source(frames[-1], line.strip())
        elif frames and (end := _END.match(line)) is not None:
            last = Failure(end["type"].rpartition(".")[2], end["message"] or "", tuple(frames))
            is_open = False
    return last


def _frame(match: re.Match[str]) -> Frame:
    owner, place = owner_of(match["path"])
    return Frame(owner, place, match["function"] if owner != "user" else "a function", int(match["line"]))


def _with_source(frame: Frame, source: str) -> Frame:
    """The frame with its line of code, which is shown where the code is public: ours."""
    return Frame(frame.owner, frame.place, frame.function, frame.line, source) if frame.owner == "oxrl" else frame


def owner_of(path: str) -> tuple[str, str]:
    """Whose file it is, and a name for it that holds no folder of this machine."""
    parts = path.replace("\\", "/").split("/")
    for index in range(len(parts) - 1, -1, -1):
        # A folder `oxrl` of somebody's is not our package: the file must be one of ours.
        if parts[index] in PACKAGES and (ROOT / Path(*parts[index:])).is_file():
            return "oxrl", "/".join(parts[index:])
        if parts[index] in ("site-packages", "dist-packages"):
            return "library", "/".join(parts[index + 1 :])
        if re.fullmatch(r"python3\.\d+t?", parts[index]) and index + 1 < len(parts):
            return "library", "/".join(parts[index:])
    return ("library", path) if path.startswith("<frozen ") else ("user", "a file of the user")


def fingerprint_of(failure: Failure, version: str) -> str:
    """Sixteen hexadecimal digits that the same defect of the same minor version has on every machine."""
    places = [f"{frame.place}:{frame.function}" for frame in failure.own_frames[-FRAMES_OF_FINGERPRINT:]]
    minor = ".".join(version.split(".")[:2])
    return hashlib.sha256("\n".join([failure.type, *places, minor]).encode()).hexdigest()[:16]
