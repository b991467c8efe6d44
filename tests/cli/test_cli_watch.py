"""What a watcher sees."""

from __future__ import annotations

import pytest

from oxrl_core.cli.tables import drawn
from oxrl_core.cli.watch import LiveBoard, PlainBoard, draw_board, exit_code_of, plain_line
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


def test_the_board_fits_80_columns_and_shows_the_course(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    alerts = [Alert(time="t", level="warning", code="x", message="[groups] " + "long " * 40)]
    board = draw_board(view(step=40, elapsed_seconds=9.0, eta_seconds=7.0), "reward/mean", [0.0, 0.2, 0.4], alerts)
    text = drawn([board], color=False)
    assert max(map(len, text.splitlines())) <= 80
    assert "40/100" in text
    assert "9 s, 7 s left" in text
    assert "▁▅█" in text
    assert "[groups]" in text


def test_the_course_holds_every_step_that_was_seen_once() -> None:
    drawings: list[object] = []
    board = LiveBoard(drawings.append, {1: 0.0})
    for step in (1, 1, 100, 50):
        board.show(view(step=step), [])
    assert "▁█▄" in drawn([drawings[-1]], color=False)


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
