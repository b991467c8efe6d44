"""The arithmetic of the verdict, what the table says, and one algorithm that learns and unlearns for real."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest
from typer.testing import CliRunner

from oxrl_core.algorithms.base import all_algorithms
from oxrl_core.bench.judge_server import judge_server, right_positions, verdict
from oxrl_core.cli import bench
from oxrl_core.cli.app import app
from oxrl_core.cli.bench import LearnReport, Measured, Outcome, chosen, has_learned, report_of, run_one, standard_error
from oxrl_core.cli.tables import draw_learning, drawn
from oxrl_core.errors import NotFoundError
from oxrl_core.rewards.judge_questions import Question

ROOT = Path(__file__).parents[2]


def outcome(
    seed: int, before: float, after: float, *, better: str = "higher", name: str = "dpo", **facts: object
) -> Outcome:
    measured = Measured.model_validate({"name": "a measure", "better": better, "before": before, "after": after})
    return Outcome.model_validate({"algorithm": name, "seed": seed, "measures": [measured], **facts})


# ---- the verdict


def test_the_standard_error_is_the_deviation_over_the_root_of_n() -> None:
    # 1, 2, 3: the deviation is 1, so the mean 2 has an error of 1 / sqrt(3).
    assert standard_error([1.0, 2.0, 3.0]) == pytest.approx(1 / math.sqrt(3))
    assert standard_error([2.0]) is None


@pytest.mark.parametrize(
    ("improvements", "learned"),
    [
        ([1.0, 2.0, 3.0], True),  # 2 / 0.577 = 3.46 standard errors
        ([0.6, 2.0, 3.4], False),  # 2 / 0.808 = 2.47
        ([-1.0, -1.1, -0.9], False),
        ([0.5, 0.5, 0.5], True),  # no error at all
        ([0.0, 0.0, 0.0], False),
        ([0.2], True),
        ([0.0], False),
        ([-0.2], False),
    ],
)
def test_it_has_learned_where_the_mean_lies_three_standard_errors_above_zero(
    improvements: list[float], learned: bool
) -> None:
    assert has_learned(improvements) is learned


def test_a_measure_that_is_better_when_lower_improves_downwards() -> None:
    (row,) = report_of(
        [outcome(seed, 3.0, 1.0 + seed / 10, better="lower") for seed in range(3)], flipped=False, seconds=1
    ).rows
    assert row.improvement == pytest.approx(1.9)  # 2.0, 1.9 and 1.8
    assert row.standard_error == pytest.approx(0.1 / math.sqrt(3))
    assert row.standard_errors == pytest.approx(19 * math.sqrt(3))
    assert row.learned


def test_all_measures_of_an_algorithm_must_improve() -> None:
    both = [
        Outcome(
            algorithm="rlhf",
            seed=seed,
            measures=[
                Measured(name="score", better="higher", before=0, after=5 + seed),
                Measured(name="true reward", better="higher", before=0.5, after=0.5 - seed / 10),
            ],
        )
        for seed in range(3)
    ]
    report = report_of(both, flipped=False, seconds=1)
    assert [row.learned for row in report.rows] == [True, False]
    assert not report.ok, "a reward model that is pleased while the task gets worse is no success"


def test_turned_round_what_improves_is_the_failure() -> None:
    worse, better = outcome(0, 0.5, 0.1), outcome(0, 0.1, 0.5, name="sft")
    assert report_of([worse], flipped=True, seconds=1).ok
    assert not report_of([worse, better], flipped=True, seconds=1).ok
    diverged = Outcome(algorithm="sft", seed=0, flip=True, diverged="the loss of sft is nan")
    assert report_of([diverged], flipped=True, seconds=1).ok


def test_a_run_that_failed_is_no_success_either_way() -> None:
    for flipped in (False, True):
        failed = [outcome(0, 0.0, 1.0), outcome(1, 0.0, 1.0), Outcome(algorithm="dpo", seed=2, error="exit code 1")]
        report = report_of(failed, flipped=flipped, seconds=1)
        assert not report.ok
        assert not report.rows[0].learned
        assert "exit code 1" in report.rows[0].note


# ---- what is run


def test_every_seed_algorithm_has_a_loss_and_a_recipe() -> None:
    assert len(chosen([])) == 18
    assert set(chosen([])) <= set(all_algorithms())


def test_an_unknown_algorithm_gets_a_near_one_named() -> None:
    with pytest.raises(NotFoundError, match="Did you mean 'sgrpo'"):
        chosen(["sgrop"])
    ran = CliRunner().invoke(app, ["bench", "learn", "dpoo", "--format", "agent"])
    assert ran.exit_code == 2
    assert "Did you mean 'dpo'" in ran.stderr


def test_a_deadline_ends_the_process_and_says_so(tmp_path: Path) -> None:
    started = time.monotonic()
    result = run_one("sft", 0, tmp_path, flip=False, deadline_seconds=0.5)
    assert "not done after 0.5 s" in result.error
    assert time.monotonic() - started < 2 * bench.END_SECONDS
    assert not living(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_end_from_outside_leaves_no_process_and_no_folder_behind(number: int, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "oxrl", "bench", "learn", "sft", "--seeds", "1"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not living(tmp_path):
        assert time.monotonic() < deadline, "the process of the bench never started"
        time.sleep(0.2)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "interrupted" in said
    assert not living(tmp_path)
    assert not list(tmp_path.glob("oxrl-bench-*"))


def living(home: Path) -> list[str]:
    """Command lines of the processes that name the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if "oxrl_core.bench.learn" in line and str(home) in line:
                found.append(line)
    return found


@pytest.mark.parametrize("flip", [False, True])
def test_sft_learns_and_with_its_loss_turned_round_it_does_not(flip: bool, tmp_path: Path) -> None:
    result = run_one("sft", 0, tmp_path, flip=flip, deadline_seconds=300)
    assert not result.error, result.error
    report = report_of([result], flipped=flip, seconds=1)
    (measure,) = result.measures or [None]
    if flip:
        assert measure is None or measure.improvement < -1
    else:
        # 19 characters: random weights cost about log 19 = 2.94 nats a token.
        assert measure is not None
        assert measure.before == pytest.approx(math.log(19), abs=0.3)
        assert measure.after < 0.3
    assert report.ok
    assert report.rows[0].learned is not flip


# ---- what is shown


def table_of(**changes: object) -> LearnReport:
    names = bench.SEED_ALGORITHMS
    outcomes = [
        outcome(seed, 0.0903, 0.951 + seed / 100, name=name, steps=100, seconds=123.4, cpu_seconds=99.6, **changes)
        for name in names
        for seed in range(3)
    ]
    for one in outcomes:
        one.measures[0].name = "true reward"
    return report_of(outcomes, flipped=False, seconds=1000)


def test_the_table_fits_eighty_columns_with_a_line_for_each_algorithm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = drawn(draw_learning(table_of()), color=False).splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("true reward" in line for line in lines) == 18, "no cell is broken into two lines"
    assert "Every algorithm learns." in lines


def test_the_table_says_what_did_not_learn_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    outcomes = [outcome(0, 0.5, 0.4), Outcome(algorithm="sft", seed=0, error="NumericsError: the loss is nan")]
    text = drawn(draw_learning(report_of(outcomes, flipped=False, seconds=1)), color=False)
    assert "2 algorithm(s) did not learn." in text
    assert "sft: NumericsError: the loss is nan" in text


def test_the_command_shows_the_report_in_every_format(monkeypatch: pytest.MonkeyPatch) -> None:
    report = table_of()
    monkeypatch.setattr(bench, "run_bench", lambda *_, **__: report)
    shown = {form: CliRunner().invoke(app, ["bench", "learn", "--format", form]) for form in ("agent", "json", "human")}
    assert {ran.exit_code for ran in shown.values()} == {0}
    assert LearnReport.model_validate(json.loads(shown["json"].stdout)) == report
    assert len(json.loads(shown["json"].stdout)["outcomes"]) == 54
    assert "rows[18]" in shown["agent"].stdout
    quiet = CliRunner().invoke(app, ["bench", "learn", "--format", "quiet"])
    assert quiet.stdout.split() == list(bench.SEED_ALGORITHMS)
    monkeypatch.setattr(bench, "run_bench", lambda *_, **__: report.model_copy(update={"ok": False}))
    assert CliRunner().invoke(app, ["bench", "learn"]).exit_code == 1


# ---- the judge of rlaif


def test_the_judge_counts_right_positions_and_a_right_end() -> None:
    assert [right_positions("420>", answer) for answer in ("024", "0249", "02", "111", "")] == [4, 3, 2, 1, 0]


def ask(question: Question) -> str:
    return verdict(question.messages()[1]["content"])


def test_the_judge_prefers_the_better_answer_in_both_orders() -> None:
    question = Question("rubric", "420>", ("024", "420"))
    assert (ask(question), ask(question.swapped())) == ("A", "B")
    assert ask(Question("rubric", "420>", ("120", "024"), "024")) == "B"
    assert ask(Question("rubric", "420>", ("021", "124"))) == "tie"
    assert [ask(Question("rubric", "420>", (answer,))) for answer in ("024", "02", "5555")] == ["10", "5", "1"]


def test_the_judge_serves_chat_completions_on_loopback_and_ends_with_its_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    body = {"model": "judge", "messages": Question("rubric", "420>", ("024", "420")).messages()}
    with judge_server() as url:
        assert url.startswith("http://127.0.0.1:")
        answer = httpx2.post(f"{url}/chat/completions", json=body, timeout=10)
        assert answer.json()["choices"][0]["message"]["content"] == "A"
        assert httpx2.post(f"{url}/other", json=body, timeout=10).status_code == 404
    with pytest.raises(httpx2.ConnectError):
        httpx2.post(f"{url}/chat/completions", json=body, timeout=10)
