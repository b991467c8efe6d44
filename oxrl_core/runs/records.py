"""Files that several processes write and read at once: whole JSON objects, lines of JSON, locks.

Every JSON file is replaced in one rename; every line of a .jsonl is one write(). Readers ignore a torn last line.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import secrets
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, cast

from oxrl_core.errors import DeadlineError
from oxrl_core.runs.machine.disk import disk_error

T = TypeVar("T")
_AT_ONCE = 1000  # lines
_MARK = secrets.token_hex(8)  # that no line holds
_BETWEEN = f',"{_MARK}",'.encode()


def write_text(path: Path, text: str, *, durable: bool = False) -> None:
    """Replace the file in one rename: a reader sees the old text or the new one. `durable` survives a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(3)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            data = memoryview(text.encode())
            while data:
                data = data[os.write(descriptor, data) :]
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, record: Mapping[str, Any], *, durable: bool = False) -> None:
    """Replace a JSON file in one rename."""
    write_text(path, json.dumps(record, ensure_ascii=False, default=str) + "\n", durable=durable)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, None where there is no file or no whole object."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return cast("dict[str, Any]", record) if isinstance(record, dict) else None


def read_lines(path: Path, from_byte: int = 0) -> list[dict[str, Any]]:
    """The objects of a .jsonl file from an offset on; lines that are torn or no object are passed by."""
    try:
        with path.open("rb") as file:
            file.seek(from_byte)
            data = file.read()
    except OSError:
        return []
    lines = [line for line in data.split(b"\n") if line]
    return [record for start in range(0, len(lines), _AT_ONCE) for record in _objects(lines[start : start + _AT_ONCE])]


def _objects(lines: list[bytes]) -> list[dict[str, Any]]:
    # A mark between each two lines: where a line is torn, it stands within an object, or not at every second place.
    # To take them at once saves half the time for lines of two keys, a fifth for lines of 25.
    joined: list[Any] = []
    with suppress(ValueError):
        joined = json.loads(b"[" + _BETWEEN.join(lines) + b"]")
    is_whole = len(joined) == 2 * len(lines) - 1 and all(mark == _MARK for mark in joined[1::2])
    records = joined[::2] if is_whole else [_object(line) for line in lines]
    return [record for record in records if isinstance(record, dict)]


def _object(line: bytes) -> Any:
    try:
        return json.loads(line.decode())  # of bytes it would guess the encoding, line by line
    except ValueError:
        return None


def last_json_line(text: str) -> dict[str, Any]:
    """The object in the last line of a program's output that holds one; empty where none does."""
    for line in reversed(text.splitlines()):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            return cast("dict[str, Any]", found)
    return {}


def append_line(path: Path, record: Mapping[str, Any], *, mend: bool) -> None:
    """Add one object as one line in one write(). `mend` first ends a line that a writer left torn when it died."""
    line = (json.dumps(record, ensure_ascii=False, default=str) + "\n").encode()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        if mend:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = b"\n" + line
        left = memoryview(line)
        while left:  # a disk that is nearly full takes a part without a complaint; the next write says why
            left = left[os.write(descriptor, left) :]
    finally:
        os.close(descriptor)


def keep_rows_up_to(path: Path, step: int) -> int:
    """The newest step left in a .jsonl of steps, -1 where there is none; later rows, torn lines and doubles are gone.

    A run that goes on from a checkpoint writes the rows behind it again.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return -1
    kept: dict[int, bytes] = {}
    for line in data.split(b"\n"):
        try:
            row = json.loads(line) if line else None
        except ValueError:
            continue
        number = cast("dict[str, Any]", row).get("step") if isinstance(row, dict) else None
        if isinstance(number, (int, float)) and number <= step:
            kept[int(number)] = line
    text = b"".join(kept[number] + b"\n" for number in sorted(kept))
    if text != data:
        write_text(path, text.decode(), durable=True)
    return max(kept, default=-1)


def whole_lines_size(path: Path) -> int:
    """Bytes up to the end of the last whole line."""
    try:
        with path.open("rb") as file:
            end = os.fstat(file.fileno()).st_size
            while end > 0:
                start = max(0, end - 4096)
                position = os.pread(file.fileno(), end - start, start).rfind(b"\n")
                if position >= 0:
                    return start + position + 1
                end = start
            return 0
    except OSError:
        return 0


@contextmanager
def file_lock(path: Path, timeout_seconds: float) -> Generator[None]:
    """Holds an exclusive lock that the kernel takes back when its holder dies."""
    descriptor = _open_lock(path)
    try:
        deadline = time.monotonic() + timeout_seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise DeadlineError(
                        f"another process held the lock for more than {timeout_seconds:g} s", str(path), "try again"
                    ) from None
                time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)


def _open_lock(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        try:  # a disk that takes nothing more must not keep a run from being stopped
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            raise disk_error(error, path) from error


def thin(rows: list[T], max_points: int | None) -> list[T]:
    """At most `max_points` rows, evenly spaced, first and last among them."""
    if max_points is None or len(rows) <= max_points:
        return rows
    if max_points < 2:
        return rows[-max_points:] if max_points > 0 else []
    last = len(rows) - 1
    return [rows[round(index * last / (max_points - 1))] for index in range(max_points)]


def finite(row: Mapping[str, float]) -> dict[str, Any]:
    """The row as JSON can say it: a value that is not finite is null."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else _plain(value)
        for name, value in row.items()
    }


def _plain(value: Any) -> Any:
    """Numbers of array libraries as Python's own."""
    if isinstance(value, (bool, int, float, str)) or value is None:
        return value
    number = float(value)
    return number if math.isfinite(number) else None
