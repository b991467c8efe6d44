"""What a watcher sees."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from oxrl_core.cli.watch import JsonBoard, LiveBoard, PlainBoard, board_lines, exit_code_of, plain_line
from oxrl_core.runs.views import Alert, RunView


def view(step: int = 0, state: str = "running", **fields: object) -> RunView:
    return RunView.model_validate(
        {"run_id": "demo-261121-101010-abcd", "kind": "rl", "name": "demo", "state": state, "step": step}
        | {"total_steps": 100, "metrics": {"reward/mean": step / 100, "loss": 0.0}}
        | fields
    )


def test_plain_lines_come_every_five_seconds_and_at_every_change_of_state() -> None:
    written: list[str] = []
    now = [0.0]
    board = PlainBoard(written.append, clock=lambda: now[0])
    for second in range(11):
        now[0] = float(second)
        board.show(view(step=second), [])
    assert [line.split("  ")[1] for line in written] == ["step 0/100", "step 5/100", "step 10/100"]
    board.show(view(step=10, state="finished"), [])
    assert written[-1].startswith("finished")


def test_an_alert_is_said_once_and_at_once() -> None:
    written: list[str] = []
    board = PlainBoard(written.append, clock=lambda: 0.0)
    board.show(view(), [])
    board.show(view(), [Alert(time="t", level="warning", code="stall", message="no progress")])
    assert written[1:] == ["warning stall: no progress"]


def test_a_plain_line_holds_step_reward_and_time_left() -> None:
    line = plain_line(view(step=40, elapsed_seconds=60.0, eta_seconds=90.0))
    assert line == "running  step 40/100  reward 0.4  loss 0  1 min  1 min 30 s left"


ALERTS = [Alert(time="t", level="warning", code=f"x{n}", message="[groups] " + "long\nline " * 40) for n in range(3)]
SAMPLE = {"step": 40, "reward": 1.0, "prompt": "2 + 2 = \n" * 30, "completion": "four \x5bbold\x5d" * 30}
COURSES = {
    "reward/mean": {step: step / 100 for step in range(41)},
    "loss": {step: -step / 10 for step in range(41)},
    "entropy": {0: 1.0, 40: None},
}


def drawn_board(width: int, height: int, **fields: object) -> list[str]:
    shown = view(step=40, elapsed_seconds=9.0, eta_seconds=7.0, **fields)
    lines = board_lines(shown, COURSES, ALERTS, SAMPLE, width, height)
    return [line.plain for line in lines]


@pytest.mark.parametrize("width", [20, 33, 47, 60, 80, 200])
@pytest.mark.parametrize("height", [1, 2, 3, 6, 11, 23, 60])
def test_the_board_fits_every_terminal(width: int, height: int) -> None:
    lines = drawn_board(width, height)
    assert 1 <= len(lines) <= height
    assert all(cell_len(line) <= width and "\n" not in line for line in lines)
    assert lines[0].startswith("demo-261121")


def test_the_board_of_an_ordinary_terminal_shows_everything() -> None:
    lines = drawn_board(80, 23)
    text = "\n".join(lines)
    assert "running" in lines[0] and "40/100  9 s, 7 s left" in lines[1]
    assert re.search(r"reward +0.4  ▁.*█", text) and re.search(r"loss +0  █.*▁", text) and "entropy" in text
    assert "warning x2: [groups] long ⏎ line" in text
    assert "best of step 40, reward 1" in text and "[bold]" in text


def test_what_matters_most_stays_where_there_is_little_room() -> None:
    text = "\n".join(drawn_board(40, 7))
    assert "40/100" in text and "warning x2" in text and "reward" in text and "best of step" not in text


def test_a_supervised_run_shows_its_loss_and_accuracy() -> None:
    shown = view(step=3, kind="sl", metrics={"loss": 0.5, "eval/loss": 0.75, "preference/accuracy": 0.875})
    text = "\n".join(line.plain for line in board_lines(shown, {"loss": {1: 1.0, 3: 0.5}}, [], None, 80, 23))
    assert re.search(r"loss +0.5  █▁", text) and re.search(r"preferred +0.875", text)


def test_the_live_board_keeps_courses_and_follows_a_resize() -> None:
    board = LiveBoard({})
    for step in (1, 1, 100, 50):
        board.show(view(step=step), [])
    for width, height in ((80, 24), (30, 6)):
        console = Console(width=width, height=height, file=io.StringIO(), color_system=None)
        console.print(board)
        written = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
        assert len(written) < height and max(map(cell_len, written)) <= width
        assert "▁▄█" in "\n".join(written)  # steps 1, 50 and 100, each once and in their order


def test_json_lines_come_at_changes_alone() -> None:
    written: list[str] = []
    board = JsonBoard(written.append)
    for one in (view(cursor="a"), view(cursor="a"), view(step=2, cursor="b"), view(state="finished", cursor="c")):
        board.show(one, [])
    lines = [json.loads(line) for line in written]
    assert [(line["state"], line["step"]) for line in lines] == [("running", 0), ("running", 2), ("finished", 0)]
    assert not any("\n" in line for line in written)


def test_watching_in_json_prints_lines_and_the_ended_run_last(
    oxrl: Callable[..., tuple[int, str, str]], run_id: str, home: Path
) -> None:
    from oxrl_core.runs.rundir import RunDir

    RunDir(home / "runs" / run_id).write_error({"code": "E", "what": "broke", "where": "", "next": ""})
    progress = home / "runs" / run_id / "progress.json"
    record = json.loads(progress.read_text())
    record["process"]["start"] = 1  # of a process that is gone: this one goes on
    progress.write_text(json.dumps(record))
    code, out, _ = oxrl("run", "watch", run_id, "--json")
    assert code == 1
    assert json.loads(out.splitlines()[-1])["error"]["what"] == "broke"


@pytest.mark.parametrize(
    ("state", "code", "expected"),
    [
        ("finished", 0, 0),
        ("failed", 1, 1),
        ("failed", 2, 2),
        ("failed", -9, 137),
        ("stopped", 143, 143),
        ("lost", None, 1),
    ],
)
def test_the_exit_code_is_the_runs(state: str, code: int | None, expected: int) -> None:
    assert exit_code_of(view(state=state, exit_code=code)) == expected
