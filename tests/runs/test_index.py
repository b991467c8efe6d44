"""The index of the runs: never older than the files, made anew where it is broken, and one for many processes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from oxrl_core import api
from oxrl_core.runs.records import write_json
from oxrl_core.runs.rundir import RunDir

ENDED = {"state": "finished", "started_at": 1.0, "ended_at": 2.0, "exit_code": 0}


def add_run(home: Path, number: int, record: dict[str, Any] | None = ENDED) -> RunDir:
    run = RunDir(home / "runs" / f"r-260101-{number:06d}-abcd")
    run.path.mkdir(parents=True)
    run.write_progress("finished", 3, 3, {"reward/mean": 0.5})
    if record is not None:
        write_json(run.path / "status.json", record)
    write_json(run.path / "spec.json", {"kind": "rl", "name": "r", "created_at": time.time()})
    os.utime(run.path / "spec.json", (1e9 + number, 1e9 + number))
    return run


def listed(home: Path, **options: Any) -> list[tuple[str, str]]:
    return [(view.run_id[-11:-5], view.state) for view in api.list_runs(home=home, **options).runs]


def test_pages_follow_each_other_newest_first(tmp_path: Path) -> None:
    for number in range(7):
        add_run(tmp_path, number)
    for _ in range(2):  # without an index, and with one
        first = api.list_runs(limit=3, home=tmp_path)
        second = api.list_runs(limit=3, cursor=first.next_cursor, home=tmp_path)
        third = api.list_runs(limit=3, cursor=second.next_cursor, home=tmp_path)
        ids = [view.run_id[-11:-5] for page in (first, second, third) for view in page.runs]
        assert ids == [f"{number:06d}" for number in reversed(range(7))]
        assert (first.total, third.next_cursor) == (7, "")
    assert api.list_runs(limit=7, home=tmp_path).next_cursor == ""


def test_a_list_is_never_older_than_the_files(tmp_path: Path) -> None:
    run = add_run(tmp_path, 1)
    for _ in range(2):
        assert listed(tmp_path) == [("000001", "finished")]
    # The same millisecond, or an hour later: another file is another record.
    write_json(run.path / "status.json", {**ENDED, "state": "stopped"})
    assert listed(tmp_path) == [("000001", "stopped")]
    assert listed(tmp_path, state="finished") == []
    add_run(tmp_path, 2)
    assert listed(tmp_path) == [("000002", "finished"), ("000001", "stopped")]
    shutil.rmtree(run.path)
    assert listed(tmp_path) == [("000002", "finished")]


def test_a_run_that_is_being_made_appears_when_it_is_one(tmp_path: Path) -> None:
    add_run(tmp_path, 1)
    run = add_run(tmp_path, 2)
    spec = (run.path / "spec.json").read_text()
    (run.path / "spec.json").unlink()
    past = time.time() - 60
    os.utime(tmp_path / "runs", (past, past))  # long settled
    for _ in range(2):
        assert [number for number, _ in listed(tmp_path)] == ["000001"]
    (run.path / "spec.json").write_text(spec)
    os.utime(tmp_path / "runs", (past, past))
    assert [number for number, _ in listed(tmp_path)] == ["000002", "000001"]


@pytest.mark.parametrize("damage", ["garbage", "half", "no rows", "a page", "of another version", "gone"])
def test_a_broken_index_is_made_anew(tmp_path: Path, damage: str, capfd: pytest.CaptureFixture[str]) -> None:
    for number in range(30):
        add_run(tmp_path, number)
    before = listed(tmp_path)
    file = tmp_path / "index.db"
    data = file.read_bytes()
    if damage == "garbage":
        file.write_bytes(b"not a database at all" * 400)
    elif damage == "half":
        file.write_bytes(data[: len(data) // 2])
    elif damage == "a page":
        file.write_bytes(data[:4096] + b"\xff" * 4096 + data[8192:])
    elif damage == "gone":
        file.unlink()
    else:
        with sqlite3.connect(file) as connection:
            connection.execute("pragma user_version = 99" if damage == "of another version" else "delete from folder")
        connection.close()
    assert listed(tmp_path) == before
    assert listed(tmp_path) == before
    if damage in ("garbage", "half", "a page"):
        assert "is made anew" in capfd.readouterr().err  # said, not silent


def test_rebuilding_tells_what_is_there_and_what_cannot_be_read(tmp_path: Path) -> None:
    for number in range(3):
        add_run(tmp_path, number)
    torn = add_run(tmp_path, 3)
    (torn.path / "status.json").write_text('{"state": "fini')
    report = api.rebuild_index(home=tmp_path)
    assert (report.runs, report.unreadable) == (4, [str(torn.path / "status.json")])
    # What it was, its driver's own last word still says, once its process is gone.
    progress = json.loads((torn.path / "progress.json").read_text())
    write_json(torn.path / "progress.json", {**progress, "process": {**progress["process"], "start": 1}})
    assert dict(listed(tmp_path))["000003"] == "finished"


def test_a_home_that_cannot_be_written_is_listed_all_the_same(tmp_path: Path) -> None:
    add_run(tmp_path, 1)
    (tmp_path / "index.db").mkdir()  # no file can be there
    assert listed(tmp_path) == [("000001", "finished")]


WRITER = """
import sys, time
from pathlib import Path
from oxrl_core import api
sys.path.insert(0, sys.argv[3])
from test_index import add_run
home, first = Path(sys.argv[1]), int(sys.argv[2])
for number in range(first, first + 6):
    add_run(home, number)
    print(number, flush=True)
    api.list_runs(home=home)
"""


def test_writers_that_are_killed_lose_no_run_and_leave_a_sound_index(tmp_path: Path) -> None:
    random.seed(4)
    acknowledged: set[str] = set()
    for wave in range(2):
        command = [sys.executable, "-c", WRITER, str(tmp_path)]
        writers = [
            subprocess.Popen(
                [*command, str(1000 * wave + 100 * index), str(Path(__file__).parent)],
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": str(Path(api.__file__).parents[2])},
            )
            for index in range(3)
        ]
        for writer in writers:
            assert writer.stdout
            acknowledged.add(writer.stdout.readline().strip())
        time.sleep(random.random() * 0.2)
        for writer in writers[: 3 - wave]:  # one wave more of them lives to its end
            writer.send_signal(signal.SIGKILL)
        for writer in writers:
            acknowledged |= set(writer.communicate(timeout=60)[0].split())
    there = {number for number, _ in listed(tmp_path, limit=1000)}
    assert {f"{int(number):06d}" for number in acknowledged} <= there
    with sqlite3.connect(tmp_path / "index.db") as connection:
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
        rows = {run_id[-11:-5] for (run_id,) in connection.execute("select run_id from runs")}
    connection.close()
    assert rows == there


LAUNCHER = """
import json, sys
from pathlib import Path
from oxrl_core.config.load import load_config
from oxrl_core.runs import launch
from oxrl_core.runs.rundir import RunDir
loaded = load_config("demo", [])
sys.stdin.read(1)
run, created = launch.open_run(Path(sys.argv[1]), loaded, "rl", "one key", [sys.executable, "-c", "print('ran')"])
launch.launch(run)
print(json.dumps([run.run_id, created]))
"""


def test_eight_launchers_with_one_key_launch_one_run(tmp_path: Path) -> None:
    launchers = [
        subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(8)
    ]
    for launcher in launchers:
        assert launcher.stdin
        launcher.stdin.write("x")
        launcher.stdin.flush()
    answers = [json.loads(launcher.communicate(timeout=120)[0]) for launcher in launchers]
    assert len({run_id for run_id, _ in answers}) == 1
    assert sum(created for _, created in answers) == 1
    run = RunDir(tmp_path / "runs" / answers[0][0])
    deadline = time.monotonic() + 30
    while not run.status().has_ended and time.monotonic() < deadline:
        time.sleep(0.1)
    assert run.status().state == "finished" and run.read_logs().lines == ["ran"]
    assert len(api.list_runs(home=tmp_path).runs) == 1
