"""The parts of the demo that need no run: what it measures, draws and refuses to call success."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from oxrl_core import demo, demo_report
from oxrl_core.agent_clients import client_settings, server_command
from oxrl_core.sparkline import BLOCKS

ROWS = [{"step": 0, "eval/reward": 0.13, "eval/accuracy": 0.0}] + [
    {"step": step, "reward/mean": step / 100, "gap/max": 1e-6 * step} for step in range(1, 101)
]


def measured(before: float, after: float | None) -> demo_report.Measured:
    rows = [
        {"step": 0, "eval/reward": before},
        *ROWS[1:],
        *([] if after is None else [{"step": 100, "eval/reward": after, "eval/accuracy": 1.0}]),
    ]
    return demo_report.measure(rows, 60.0)


def test_means_are_over_ten_steps_at_each_end() -> None:
    found = measured(0.13, 0.97)
    assert found.training_reward_first == pytest.approx(0.055)  # (1 + ... + 10) / 10 / 100
    assert found.training_reward_last == pytest.approx(0.955)
    assert (found.reward_before, found.reward_after, found.steps) == (0.13, 0.97, 100)
    assert found.logprob_gap_max == pytest.approx(1e-4)


@pytest.mark.parametrize(
    ("before", "after", "learned"),
    [
        (0.13, 0.97, True),
        (0.34, 0.81, True),
        (0.35, 0.97, False),
        (0.13, 0.8, False),
        (0.97, 0.13, False),
        (0.13, None, False),
    ],
)
def test_only_a_measured_rise_over_both_bounds_is_success(before: float, after: float | None, learned: bool) -> None:
    assert measured(before, after).learned is learned


def test_nothing_measured_is_no_success_and_shows_dashes() -> None:
    found = demo_report.measure([], 1.0)
    assert not found.learned and found.steps == 0
    console = Console(file=io.StringIO(), width=80)
    demo_report.print_table(console, found, "none")
    row = next(line for line in console.file.getvalue().splitlines() if "held-out reward" in line)  # pyright: ignore[reportAttributeAccessIssue]
    assert row.split()[-4:] == ["-", "│", "-", "│"]


def test_the_table_fits_a_terminal_of_eighty_columns() -> None:
    console = Console(file=io.StringIO(), width=80)
    demo_report.print_table(console, measured(0.13, 0.97), "Ray + DeepSpeed (ZeRO 2) + vLLM sampler")
    text = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "0.130" in text and "0.970" in text


def test_plain_lines_come_with_a_new_phase_and_otherwise_every_few_seconds() -> None:
    console = Console(file=io.StringIO(), width=80)
    view = demo.PlainView(console, BLOCKS)
    for second in range(12):
        view.show(
            {"phase": "starting" if second < 2 else "training", "step": second, "total_steps": 250},
            [0.1],
            float(second),
        )
    lines = console.file.getvalue().splitlines()  # pyright: ignore[reportAttributeAccessIssue]
    assert [line.split()[0] for line in lines] == ["0", "2", "7"]
    assert max(len(line) for line in lines) <= 80


def screen_of(view: dict[str, object], rewards: list[float]) -> list[str]:
    """The lines that the live view leaves on a terminal of 80 columns."""
    console = Console(file=io.StringIO(), width=80, height=24, force_terminal=True, legacy_windows=False)
    live = demo.LiveView(console, BLOCKS)
    live.show(view, rewards, 50.0)
    live.close()
    plain = Console(file=io.StringIO(), width=400)
    text = plain.render_str(console.file.getvalue().rsplit("\x1b[2K", 1)[-1]).plain  # pyright: ignore[reportAttributeAccessIssue]
    return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).splitlines() if line.strip()]


def test_the_live_view_fits_eighty_columns() -> None:
    view = {"phase": "exporting", "step": 120, "total_steps": 250, "eta_seconds": 1148.2}
    bar, reward = screen_of(view, [i / 250 for i in range(120)])
    assert max(len(bar), len(reward)) <= 80
    assert bar.startswith("exporting") and "120/250" in bar and "50 s, at most 19 min left" in bar
    assert reward.startswith("reward") and "▁" in reward and "0.48" in reward


def test_the_live_view_of_a_run_that_is_starting_shows_the_time_alone() -> None:
    (line,) = screen_of({"state": "running", "phase": "loading", "total_steps": 0, "step": 0}, [])
    assert line.split()[0] == "loading" and line.endswith("50 s")


def test_settings_are_json_that_starts_this_environments_server() -> None:
    command = server_command()
    assert Path(command[0]).is_absolute() and Path(command[0]).exists()
    claude, gemini = client_settings(command, {"OXRL_HOME": "/data/oxrl"})
    for settings in (claude, gemini):
        server = json.loads(settings.json)["mcpServers"]["oxrl"]
        assert [server["command"], *server.get("args", [])] == command
        assert server["env"]["OXRL_HOME"] == "/data/oxrl"
    assert json.loads(claude.json)["mcpServers"]["oxrl"]["env"]["HF_TOKEN"] == "${HF_TOKEN:-}"
    assert json.loads(gemini.json)["mcpServers"]["oxrl"]["timeout"] == 600_000


def test_the_plot_is_a_picture_of_the_rows(tmp_path: Path) -> None:
    picture = demo_report.draw_plot(
        [*ROWS, {"step": 100, "eval/reward": 0.97, "eval/accuracy": 0.9}], tmp_path / "demo.png", "demo"
    )
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 5000
    assert [file.name for file in tmp_path.iterdir()] == ["demo.png"]


def test_the_saved_page_shows_measured_values_and_no_folder_of_this_machine(tmp_path: Path) -> None:
    plot = tmp_path / "plot.png"
    plot.write_bytes(b"\x89PNG")
    home = tmp_path / "home"
    summary = {"summary": {"reward/mean": {"first": 0.01, "last": 1.0, "min": 0.01, "max": 1.0}}}
    page = demo_report.save_docs(
        tmp_path / "docs", f"runs in {home}/runs\nall good   \n", plot, measured(0.13, 0.97), summary, ROWS, home
    )
    text = page.read_text(encoding="utf-8")
    assert "0.130 -> 0.970" in text and "| reward/mean | 0.01 | 1 | 0.01 | 1 |" in text
    assert str(tmp_path) not in text and "~/.oxrl/runs" in text
    numbers = json.loads((tmp_path / "docs" / "demo_metrics.json").read_text())
    assert numbers["measured"]["steps"] == 100
    assert numbers["by_step"]["reward/mean"][:3] == [None, 0.01, 0.02] and len(numbers["by_step"]["step"]) == 101
    assert (tmp_path / "docs" / "demo.png").exists()
