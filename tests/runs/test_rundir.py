"""The run directory as its readers see it: torn files, thinned metrics, logs from both ends, states."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from oxrl_core.errors import ConfigError, MachineError, NotFoundError
from oxrl_core.runs import launch
from oxrl_core.runs.records import write_json
from oxrl_core.runs.rundir import RUN_ID_PATTERN, RunDir

MakeRun = Callable[..., RunDir]


def test_a_new_run_is_queued_and_its_id_tells_name_and_time(make_run: MakeRun) -> None:
    run = make_run(name="my-run.1")
    match = RUN_ID_PATTERN.match(run.run_id)
    assert match and match["name"] == "my-run.1"
    assert run.status().state == "queued"
    assert run.home == run.path.parent.parent
    assert (run.path.stat().st_mode & 0o077) == 0  # rollouts and logs are private


def test_a_run_that_was_never_started_is_lost_after_a_minute(make_run: MakeRun) -> None:
    run = make_run(created={"time": time.time() - 61})
    status = run.status()
    assert status.state == "lost" and status.error and status.error["code"] == "NeverStarted"


def test_progress_is_read_back_and_the_step_time_is_the_median(make_run: MakeRun) -> None:
    run = make_run()
    run.write_progress("load", 0, 10)
    for step in range(1, 6):
        time.sleep(0.02)
        run.write_progress("train", step, 10, {"loss": 0.5, "reward/mean": float("nan")})
    run.write_progress("save", 5, 10)
    status = run.status()
    assert (status.phase, status.step, status.total_steps) == ("save", 5, 10)
    assert status.metrics == {"loss": 0.5, "reward/mean": None}  # kept from the last call that gave some
    assert status.step_seconds and 0.015 < status.step_seconds < 0.2
    json.loads((run.path / "progress.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_writing_progress_takes_well_under_a_millisecond(make_run: MakeRun) -> None:
    run = make_run()
    began = time.process_time()  # not the clock on the wall: the disk may be busy with other things
    for step in range(300):
        run.write_progress("train", step, 300, {"loss": 1.0, "reward/mean": 0.5})
    assert (time.process_time() - began) / 300 < 1e-3


def test_a_torn_last_line_is_ignored_and_does_not_swallow_the_next(make_run: MakeRun) -> None:
    run = make_run()
    run.append_metrics({"step": 1, "loss": 2.0})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')  # a writer was killed here
    assert [row["step"] for row in run.metrics()] == [1]
    RunDir(run.path).append_metrics({"step": 2, "loss": 1.5})  # its successor
    assert [(row["step"], row["loss"]) for row in run.metrics()] == [(1, 2.0), (2, 1.5)]


def test_metrics_are_merged_by_step_selected_and_thinned(make_run: MakeRun) -> None:
    run = make_run()
    for step in range(1, 101):
        run.append_metrics({"step": step, "loss": float(step)})
    run.append_metrics({"step": 100, "eval/reward": 0.9})
    run.append_metrics({"step": 51, "loss": -1.0})  # a resumed run wrote step 51 again
    rows = run.metrics(max_points=5)
    assert [row["step"] for row in rows] == [1, 26, 51, 75, 100]
    assert rows[2]["loss"] == -1.0
    assert rows[-1] == {"step": 100, "loss": 100.0, "eval/reward": 0.9}
    assert run.metrics(["eval/reward"]) == [{"step": 100, "eval/reward": 0.9}]
    assert [row["step"] for row in run.metrics(from_step=99)] == [99, 100]


def test_lines_of_many_writers_stay_whole(make_run: MakeRun) -> None:
    run = make_run()
    code = (
        "import sys; from oxrl_core.runs.rundir import RunDir\n"
        "run = RunDir(sys.argv[1])\n"
        "for i in range(200): run.append_event('info', 'x', sys.argv[2] * 500)"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(run.path), letter]) for letter in "abcd"]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0, 0]
    lines = (run.path / "events.jsonl").read_text().splitlines()
    messages = [json.loads(line)["message"] for line in lines][1:]
    assert len(messages) == 800 and all(len(message) == 500 and len(set(message)) == 1 for message in messages)


def test_events_are_read_from_a_cursor_on(make_run: MakeRun) -> None:
    run = make_run()
    cursor = run.events_size()
    run.append_event("info", "saved", "checkpoint", step=3)
    run.append_event("warning", "slow", "a step took long")
    assert [event["code"] for event in run.events(cursor)] == ["saved", "slow"]
    assert [event["code"] for event in run.events(cursor, alerts_only=True)] == ["slow"]
    assert run.events(run.events_size()) == []


def test_logs_are_read_from_the_end_and_then_onwards_without_a_gap(make_run: MakeRun) -> None:
    run = make_run()
    log = run.logs / "driver.log"
    assert run.read_logs().lines == []  # not begun
    log.write_text("".join(f"line {i}\n" for i in range(20_000)))
    tail = run.read_logs(lines=3)
    assert tail.lines == ["line 19997", "line 19998", "line 19999"]
    with log.open("a") as file:
        file.write("new 1\nnew 2\nhalf a li")
    first = run.read_logs(cursor=tail.cursor, lines=1)
    assert first.lines == ["new 1"]
    second = run.read_logs(cursor=first.cursor)
    assert second.lines == ["new 2"]  # the half line waits for its other half
    with log.open("a") as file:
        file.write("ne\n")
    assert run.read_logs(cursor=second.cursor).lines == ["half a line"]
    everything: list[str] = []
    cursor = 0
    while (chunk := run.read_logs(cursor=cursor, lines=777)).lines:
        everything += chunk.lines
        cursor = chunk.cursor
    assert everything == [f"line {i}" for i in range(20_000)] + ["new 1", "new 2", "half a line"]


def test_grep_finds_the_last_matches_and_goes_on_from_a_cursor(make_run: MakeRun) -> None:
    run = make_run()
    (run.logs / "driver.log").write_text("".join(f"line {i}{' error' if i % 100 == 0 else ''}\n" for i in range(1000)))
    assert run.read_logs(lines=2, grep="error").lines == ["line 800 error", "line 900 error"]
    assert run.read_logs(cursor=0, lines=2, grep="error").lines == ["line 0 error", "line 100 error"]


def test_log_lines_cannot_steer_a_terminal(make_run: MakeRun) -> None:
    run = make_run()
    (run.logs / "driver.log").write_bytes(
        b"\x1b[31mred\x1b[0m \x1b]0;title\x07text\n 10%|#  |\r 99%|###|\r\n\xff\xfe caf\xc3\xa9 \xe2\x80\xaehidden\n"
        + b"x" * 9000
        + b"\n"
    )
    red, progress, bytes_, long = run.read_logs().lines
    assert (red, progress) == ("red text", " 99%|###|")
    assert bytes_ == "�� café hidden"
    assert long == "x" * 4000 + " [5000 more characters]"


def test_a_log_outside_the_run_cannot_be_read(make_run: MakeRun) -> None:
    run = make_run()
    (run.path.parent / "secret.log").write_text("secret")
    with pytest.raises(NotFoundError):
        run.read_logs(name="../../secret")


def test_runs_are_found_by_id_name_prefix_or_latest(make_run: MakeRun) -> None:
    first, second, other = make_run(name="math"), make_run(name="math"), make_run(name="math-long")
    for age, run in enumerate((other, second, first)):
        born = time.time() - 100 * age
        os.utime(run.path / "spec.json", (born, born))
    home = first.home
    assert launch.run_ids(home) == [other.run_id, second.run_id, first.run_id]
    assert launch.find_run(home, first.run_id).run_id == first.run_id
    assert launch.find_run(home, "math").run_id == second.run_id
    assert launch.find_run(home, "math-l").run_id == other.run_id
    assert launch.find_run(home, "latest").run_id == other.run_id
    with pytest.raises(NotFoundError, match="beginning of 3 runs"):
        launch.find_run(home, "ma")
    for wrong in ("nothing", "../..", ""):
        with pytest.raises(NotFoundError):
            launch.find_run(home, wrong)


def test_a_home_that_cannot_be_written_is_told_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="Not a directory"):
        RunDir.create_from_parts(tmp_path / "file", "test", "", {})


def test_a_run_that_cannot_be_written_whole_leaves_nothing(tmp_path: Path) -> None:
    """A file size limit of 4 bytes stands for the full disk: write() fails in the middle."""
    code = (
        "import resource, sys; from pathlib import Path; from oxrl_core.runs.rundir import RunDir\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4, 4))\n"
        "RunDir.create_from_parts(Path(sys.argv[1]), 'test', 'a long text', {})"
    )
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert result.returncode == 1 and "oxrl_core.errors.MachineError" in result.stderr
    assert list((tmp_path / "runs").iterdir()) == []


def test_one_key_is_one_run_of_one_configuration(make_run: MakeRun) -> None:
    run = make_run(config_hash="abc")
    home = run.home
    assert launch.find_by_key(home, "my key", "abc") is None
    path = launch._key_file(home, "my key")
    path.parent.mkdir()
    write_json(path, {"key": "my key", "run_id": run.run_id})
    found = launch.find_by_key(home, "my key", "abc")
    assert found and found.run_id == run.run_id
    with pytest.raises(ConfigError, match=run.run_id):
        launch.find_by_key(home, "my key", "another")
