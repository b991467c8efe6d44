"""The report file: bounded, without secrets, whole for young, old and torn runs. A browser sees it in tests/browser."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxrl_core import api
from oxrl_core.config.load import load_config
from oxrl_core.errors import MachineError
from oxrl_core.runs.analysis import samples
from oxrl_core.runs.analysis.curves import GROUPS, group_of, metric_names, shortened
from oxrl_core.runs.analysis.report import MOST_BYTES, write_report
from oxrl_core.runs.machine.environment import record_environment
from oxrl_core.runs.rundir import RunDir

CONFIG = {"run": {"name": "told"}, "model": {"path": "miniature:chars"}, "data": {"train": "reverse3"}}
SECRET = "hf_" + "aBcD1234" * 4


def make_run(home: Path, *overrides: str) -> RunDir:
    return RunDir.create(home, load_config(CONFIG, overrides), "rl")


def write_rollouts(run: RunDir, step: int, scores: list[float | None], text: str = "text") -> None:
    rows = [
        {"step": step, "prompt_id": "p", "sample_index": n, "prompt_text": "ask", "completion_text": f"{text} {score}"}
        | {"score": score, "completion_token_ids": [1, 2, 3], "advantages": [0.5, 1.5]}
        | {"trainer_logprobs": [-1.0, -2.0], "rollout_logprobs": [-1.5, -2.0]}
        for n, score in enumerate(scores)
    ]
    pq.write_table(pa.Table.from_pylist(rows), run.rollouts / f"step-{step:08d}.parquet")


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


POINTS = st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=400).map(
    lambda values: list(enumerate(values))
)


@given(POINTS, st.integers(4, 60))
def test_a_shortened_curve_keeps_its_ends_its_extremes_and_what_is_not_finite(points: Any, most: int) -> None:
    short = shortened(points, most)
    assert len(short) <= max(most, len(points) if len(points) <= most else 0) + 2
    assert short[0] == points[0] and short[-1] == points[-1] and short == sorted(short, key=lambda pair: pair[0])
    assert set(short) <= set(points)
    numbers, kept = ([value for _, value in some if value is not None] for some in (points, short))
    if numbers:
        assert (min(numbers), max(numbers)) == (min(kept), max(kept))
    assert (None in dict(short).values()) == (None in dict(points).values())


def test_every_metric_stands_under_one_heading_and_the_telling_ones_first() -> None:
    assert {
        group_of(name) for name in ("reward/mean", "loss", "kl/ref", "completion/length", "time/x", "data/bad")
    } == {*GROUPS}
    assert group_of("something/new") == "More"
    names = metric_names(
        [{"step": 1, "time": 2.0, "data/bad": 0, "lr": 1, "eval/reward": 1, "reward/std": 1, "loss": 1}]
    )
    assert names == ["eval/reward", "reward/std", "loss", "lr", "data/bad"]


def test_a_run_of_any_length_gives_a_page_of_two_megabytes_at_most(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    names = [f"part/{n:02d}" for n in range(70)]
    lines = (
        json.dumps({"step": step, "time": float(step)} | {name: math.sin(step * n) for n, name in enumerate(names)})
        for step in range(1000)
    )
    (run.path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    for step in range(1, 45):
        write_rollouts(run, step, [n / 12 for n in range(12)], "\u202e" * 3000)
    for number in range(1000):
        run.append_event("warning", "often", f"{number} " + "x" * 3000)
    view = write_report(run)
    page = (run.path / "report.html").read_bytes()
    assert view.bytes == len(page) <= MOST_BYTES
    data = data_of(page.decode())
    assert len(data["metrics"]) == view.num_metrics == 70
    assert data["samples"] and len(data["metrics"][3]["steps"]) >= 30


def test_no_secret_leaves_in_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_TOKEN", "correct-horse-battery")
    run = make_run(tmp_path, f"data.system_prompt=say {SECRET}", "model.path=/models/correct-horse-battery")
    run.append_metrics({"step": 1, "time": 1.0, "loss": 1.0})
    run.append_event("error", "leak", f"Authorization: Bearer {SECRET}")
    write_rollouts(run, 1, [1.0], f"my token is {SECRET}")
    run.write_error({"code": "E", "what": "at correct-horse-battery", "where": SECRET, "next": ""})
    write_report(run)
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert SECRET not in page and "correct-horse-battery" not in page and "my token is [redacted]" in page


def test_of_a_step_best_and_worst_are_chosen_and_unreadable_files_passed_by(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    write_rollouts(run, 1, [0.5, 0.1, None, 0.9, 0.3])
    (run.rollouts / "step-00000002.parquet").write_bytes(b"PAR1 torn")
    from oxrl_core.redact import Redactor

    chosen = samples.chosen_samples(run, Redactor({}), most_of_a_step=3)
    assert [sample["reward"] for sample in chosen] == [0.1, 0.5, None]
    assert chosen[0]["tokens"] == 3 and chosen[0]["advantage"] == 1.0 and chosen[0]["gap"] == 0.5
    last = samples.last_sample(run, Redactor({}))
    assert last is not None and last["completion"] == "text 0.9"


def test_a_run_that_has_done_nothing_and_one_with_a_torn_configuration_have_a_page(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    view = write_report(run)
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert (view.num_metrics, view.num_samples) == (0, 0)
    assert "No metrics were written yet." in page and "No rollouts are recorded" in page
    (run.path / "config.yaml").write_text("{ torn")
    assert write_report(run, tmp_path / "other.html").path == str(tmp_path / "other.html")


def test_events_stand_at_the_step_that_was_being_made(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for step in (1, 2):
        run.append_metrics({"step": step, "time": 10.0 * step, "loss": 1.0})
    (run.path / "events.jsonl").write_text(
        "".join(
            json.dumps({"time": time, "level": "warning", "code": code, "message": "m", **more}) + "\n"
            for time, code, more in ((15.0, "after", {}), (99.0, "named", {"step": 7}), (5.0, "before", {}))
        )
    )
    write_report(run)
    alerts = data_of((run.path / "report.html").read_text(encoding="utf-8"))["alerts"]
    assert {alert["code"]: alert["step"] for alert in alerts} == {"after": 1, "named": 7, "before": None}


def test_the_page_holds_diagnosis_environment_origins_and_the_way_to_run_it_again(tmp_path: Path) -> None:
    run = make_run(tmp_path, "train.lr=3e-5")
    record_environment(run)
    recorded = json.loads((run.path / "environment.json").read_text())
    assert recorded["packages"]["torch"].startswith("2.")
    finding = {"cause": "lr_too_high", "severity": "error", "confidence": 0.91, "summary": "it is too high"}
    finding["overlay"] = [{"path": "train.lr", "old": 1, "new": 2e-7, "why": "a tenth"}]
    (run.path / "diagnosis.json").write_text(json.dumps({"headline": "The rate is too high", "findings": [finding]}))
    view = api.write_report(run.run_id, home=tmp_path)
    page = Path(view.path).read_text(encoding="utf-8")
    for text in ("The rate is too high", "91 % sure", "train.lr=2e-07  # a tenth", "oxrl run launch config.yaml"):
        assert text in page
    assert re.search(r"<code>train\.lr</code></td><td>3e-05</td><td>override", page)
    assert recorded["packages"]["torch"] in page and "The run did not record its own" not in page


def test_a_place_that_cannot_be_written_is_an_error_with_a_next_step(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="choose another file"):
        write_report(make_run(tmp_path), tmp_path / "nowhere" / "report.html")


def test_the_command_says_where_the_page_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from oxrl_core.cli import main

    monkeypatch.setenv("OXRL_HOME", str(tmp_path))
    run = make_run(tmp_path)
    assert main(["report", "latest", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == str(run.path / "report.html")
    assert main(["report", "nowhere"]) == 2
