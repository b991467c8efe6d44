"""Which runs a list holds: by state, kind, name and age, page by page, without one lost or twice."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from oxrl_core import api
from oxrl_core.errors import ConfigError
from oxrl_core.runs.records import write_json
from oxrl_core.runs.rundir import RunDir

NAMES = ("Alpha", "beta", "alpha-two")
KINDS = ("rl", "evaluate")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Twelve runs that have ended, one hour apart, the first now."""
    for number in range(12):
        run = RunDir(tmp_path / "runs" / f"{NAMES[number % 3]}-260101-{number:06d}-abcd")
        run.path.mkdir(parents=True)
        born = time.time() - 3600 * number - 5
        write_json(run.path / "status.json", {"state": "finished" if number % 4 else "failed", "exit_code": 0})
        spec = {"kind": KINDS[number % 2], "name": NAMES[number % 3], "created_at": born}
        write_json(run.path / "spec.json", spec)
        os.utime(run.path / "spec.json", (born, born))
    return tmp_path


def numbers(home: Path, **wanted: str) -> list[int]:
    """The runs by number, collected over pages of two."""
    found: list[int] = []
    cursor = ""
    while True:
        page = api.list_runs(home=home, limit=2, cursor=cursor, **wanted)  # pyright: ignore[reportArgumentType]
        found += [int(view.run_id.split("-")[-2]) for view in page.runs]
        cursor = page.next_cursor
        if not cursor:
            return found


def test_filters_alone_and_together(home: Path) -> None:
    assert numbers(home) == list(range(12))
    assert numbers(home, kind="evaluate") == [1, 3, 5, 7, 9, 11]
    assert numbers(home, state="failed") == [0, 4, 8]
    assert numbers(home, name="alpha") == [0, 2, 3, 5, 6, 8, 9, 11], "a part of the name, in letters of any case"
    assert numbers(home, name="000007-abcd") == [7]
    assert numbers(home, since="3h") == [0, 1, 2]
    assert numbers(home, since="1d") == list(range(12)) and numbers(home, since="2999-01-01") == []
    assert numbers(home, name="alpha", kind="rl", state="finished", since="7h") == [2, 6]
    assert numbers(home, kind="sft") == []


def test_a_time_that_is_none_is_said(home: Path) -> None:
    for since in ("yesterday", "3", "2026-13-01"):
        with pytest.raises(ConfigError) as caught:
            api.list_runs(home=home, since=since)
        assert caught.value.where == "since" and "24h" in caught.value.next_step


def test_every_operation_that_is_named_is_there() -> None:
    assert all(callable(getattr(api, name)) or name == "Until" for name in api.__all__)
    with pytest.raises(AttributeError):
        _ = api.no_such_operation
