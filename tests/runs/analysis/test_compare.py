"""Runs side by side: what differs, what it came to, and whether the seeds agree."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oxrl_core.config.load import load_config
from oxrl_core.errors import ConfigError
from oxrl_core.runs.analysis.compare import compare
from oxrl_core.runs.rundir import RunDir

CONFIG = {"run": {"name": "pair"}, "model": {"path": "miniature:chars"}, "data": {"train": "reverse3"}}
MakeFinished = Callable[..., RunDir]


@pytest.fixture
def finished(tmp_path: Path) -> MakeFinished:
    def make(rewards: list[float], *overrides: str, **metrics: float) -> RunDir:
        run = RunDir.create(tmp_path, load_config(CONFIG, overrides), "rl")
        for step, reward in enumerate(rewards, start=1):
            run.append_metrics({"step": step, "time": 0.0, "reward/mean": reward, "loss": -reward, **metrics})
        run.write_progress("finished", len(rewards), len(rewards))
        return run

    return make


def test_keys_that_differ_are_listed_with_every_value(finished: MakeFinished) -> None:
    view = compare([finished([0.1]), finished([0.2], "train.lr=1e-4", "run.seed=7"), finished([0.3], "train.lr=1e-4")])
    assert {key.key: key.values for key in view.differing} == {
        "run.seed": {"A": "0", "B": "7", "C": "0"},
        "train.lr": {"A": "1e-06", "B": "0.0001", "C": "0.0001"},
    }
    assert [run.configuration for run in view.runs] == ["a", "b", "b"]
    assert [run.seed for run in view.runs] == [0, 7, 0]


def test_final_is_the_mean_of_ten_and_best_knows_its_step(finished: MakeFinished) -> None:
    rewards = [0.0] * 5 + [1.0] + [0.5] * 9
    view = compare([finished(rewards), finished([0.25] * 15)])
    first, second = (curve for curve in view.curves if curve.metric == "reward/mean")
    assert first.final == pytest.approx((1.0 + 9 * 0.5) / 10)
    assert (first.best, first.best_step, first.first) == (1.0, 6, 0.0)
    assert (second.final, second.best_step) == (0.25, 1)
    # One scale for all: 0.25 stands a quarter up, although its own run never moves.
    assert set(second.course) == {"▃"} and "█" in first.course
    losses = [curve for curve in view.curves if curve.metric == "loss"]
    assert [curve.best for curve in losses] == [None, None]  # beside a reward less of it is not better


def test_too_few_seeds_are_said_and_nothing_is_claimed(finished: MakeFinished) -> None:
    view = compare([finished([0.1]), finished([0.9], "train.lr=1e-4"), finished([0.9], "train.lr=1e-4", "run.seed=1")])
    assert view.tests == []
    assert "1 and 2 run(s) are too few" in view.notes[0] and "at least 3 seeds" in view.notes[0]


def test_the_same_seeds_are_compared_in_pairs(finished: MakeFinished) -> None:
    # Seeds scatter by 0.3, the learning rate adds 0.1 to each: only the pairs show it.
    runs = [finished([base], f"run.seed={seed}", "run.name=one") for seed, base in enumerate((0.1, 0.4, 0.7))]
    runs += [finished([base], f"run.seed={seed}", "train.lr=1e-4") for seed, base in enumerate((0.201, 0.5, 0.799))]
    (test,) = [test for test in compare(runs).tests if test.metric == "reward/mean"]
    assert (test.method, test.num_baseline, test.num_other) == ("paired t over the seeds", 3, 3)
    assert test.difference == pytest.approx(0.1) and test.low is not None and 0.09 < test.low < 0.1
    assert test.verdict == "b is better"


def test_other_seeds_are_compared_as_groups_and_chance_is_called_so(finished: MakeFinished) -> None:
    runs = [finished([base], f"run.seed={seed}") for seed, base in enumerate((0.1, 0.4, 0.7))]
    runs += [finished([base], f"run.seed={9 + seed}", "train.lr=1e-4") for seed, base in enumerate((0.2, 0.5, 0.8))]
    (test,) = [test for test in compare(runs).tests if test.metric == "reward/mean"]
    # By hand: means 0.4 and 0.5, variance 0.09 each, error sqrt(0.06), 4 degrees of freedom, t(97.5 %) = 2.776.
    assert test.method == "Welch's t"
    assert (test.low, test.high) == pytest.approx((0.1 - 2.776 * 0.06**0.5, 0.1 + 2.776 * 0.06**0.5), abs=1e-3)
    assert test.verdict == "no difference beyond chance"


def test_a_key_that_an_older_run_did_not_have_stands_for_its_default(finished: MakeFinished) -> None:
    old, new = finished([0.1]), finished([0.1])
    text = (old.path / "config.yaml").read_text()
    assert "  top_k: 0\n" in text
    (old.path / "config.yaml").write_text(text.replace("  top_k: 0\n", ""))
    assert compare([old, new]).differing == []


def test_lengths_that_differ_and_configurations_that_cannot_be_read_are_said(finished: MakeFinished) -> None:
    one, other = finished([0.1] * 3), finished([0.1] * 5)
    (other.path / "config.yaml").write_text("{ torn")
    notes = " ".join(compare([one, other]).notes)
    assert "3 to 5 steps; shorter: A" in notes and other.run_id in notes


def test_one_run_the_same_twice_and_eleven_are_refused(finished: MakeFinished) -> None:
    run = finished([0.1])
    for runs in ([run], [run, run]):
        with pytest.raises(ConfigError):
            compare(runs)


def test_the_command_in_every_rendering(
    finished: MakeFinished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from oxrl_core.cli import main

    monkeypatch.setenv("OXRL_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")
    ids = [
        finished([0.1, 0.2], f"run.seed={seed}", f"train.lr={lr}").run_id for seed in (1, 2, 3) for lr in (1e-6, 1e-4)
    ]
    for rendering in ("human", "agent", "json", "quiet"):
        assert main(["compare", *ids, "--format", rendering]) == 0
        out = capsys.readouterr().out
        assert out.strip()
        if rendering == "json":
            assert len(json.loads(out)["runs"]) == 6
        if rendering == "human":
            assert max(map(len, out.splitlines())) <= 80 and "ACE: 1e-06  BDF: 0.0001" in out
    assert main(["compare", ids[0]]) == 2
