"""Numbers, times, courses and texts."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from oxrl_core.cli.tables import drawn, styled
from oxrl_core.cli.text import agent_text, duration, identifiers, number


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (273600, "3 d 4 h"),
        (None, "-"),
    ],
)
def test_durations_are_said_as_people_say_them(seconds: float | None, said: str) -> None:
    assert duration(seconds) == said


def test_numbers_have_four_digits_and_no_trailing_zeros() -> None:
    assert [number(value) for value in (0.5, 1e-6, 123456.0, 3, True, None, "x")] == [
        "0.5", "1e-06", "1.235e+05", "3", "yes", "-", "x",
    ]  # fmt: skip


def test_agent_text_leaves_out_what_is_empty_and_keeps_prose_apart() -> None:
    text = agent_text({"state": "failed", "step": 3, "error": None, "alerts": [], "what": "it broke", "share": 0.25})
    assert text == "state=failed step=3 share=0.25\nwhat: it broke"


def test_agent_tables_drop_columns_that_say_nothing() -> None:
    text = agent_text({"runs": [{"id": "a", "note": "", "step": 1}, {"id": "b", "note": "", "step": 2}]})
    assert text == "runs[2] id|step\n  a|1\n  b|2"


def test_a_column_table_is_rows_of_values() -> None:
    assert agent_text({"run_id": "r", "columns": ["step", "loss"], "rows": [[1, None], [2, 0.5]]}) == (
        "run_id=r\nstep|loss\n1|-\n2|0.5"
    )


def test_identifiers_are_one_for_each_thing() -> None:
    assert identifiers({"runs": [{"run_id": "a", "name": "x"}, {"run_id": "b"}], "total": 2}) == ["a", "b"]
    assert identifiers({"ok": True, "items": [{"name": "ray"}]}) == ["ray"]
    assert identifiers({"total": 0}) == []


def test_markup_in_a_value_is_shown_as_it_is() -> None:
    assert drawn([styled("[red]not red[/red]")], color=False) == "[red]not red[/red]"


def on_a_terminal(*arguments: str, **environment: str) -> str:
    """What a command writes to a terminal of 80 columns."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "oxrl", *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={
            **{k: v for k, v in os.environ.items() if k != "NO_COLOR"},
            "COLUMNS": "80",
            "TERM": "xterm",
            **environment,
        },
        cwd=Path(__file__).parents[2],
    )
    os.close(slave)
    received = io.BytesIO()
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        received.write(chunk)
    os.close(master)
    assert process.wait(timeout=60) == 0
    return received.getvalue().decode()


def test_a_terminal_gets_colours_unless_it_asks_for_none(home: Path, run_id: str) -> None:
    assert "\x1b[" in on_a_terminal("run", "show")
    plain = on_a_terminal("run", "show", NO_COLOR="1")
    assert "\x1b[3" not in plain, "styles such as bold are allowed, colours are not"
    assert run_id in plain
    assert "\x1b[" not in on_a_terminal("run", "show", CLAUDECODE="1")
