"""What a run writes down about its data: rows that are left out, cut or changed are counted and said."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from oxrl_core.config.load import load_config
from oxrl_core.data.chat import RenderNotes
from oxrl_core.data.stream import RenderedStream, RowStream
from oxrl_core.engine.checkpoint import CheckpointStore
from oxrl_core.errors import DataError
from oxrl_core.runs.records import read_lines
from oxrl_core.runs.rundir import RunDir
from oxrl_core.train.journal import Journal
from oxrl_core.train.report import StepReport
from oxrl_core.types import Progress

CONFIG = {"run": {"name": "rows"}, "model": {"path": "miniature:chars"}, "data": {"train": "reverse3"}}


def test_bad_cut_and_folded_rows_are_in_the_metrics_and_said_once(tmp_path: Path) -> None:
    loaded = load_config(CONFIG | {"algorithm": {"name": "sft"}})
    run = RunDir.create(tmp_path, loaded, "sl")
    progress, notes = Progress(), RenderNotes()
    bad = [DataError("the line is not JSON", f"a.jsonl, line {line}") for line in range(1, 8)]
    rows = RowStream([[{"id": f"r/{number}"} for number in range(4)]], [1.0], 0, False, progress)

    def render(row: dict[str, Any]) -> str:
        notes.add("cut", row["id"])
        if row["id"] == "r/1":
            notes.add("folded", row["id"])
        return row["id"]

    stream = RenderedStream(rows, render, notes, bad)
    learner = SimpleNamespace(is_coordinator=True)
    parts: Any = SimpleNamespace(
        learner=learner, total_steps=2, stream=stream, config=loaded.config, model_folder=tmp_path
    )
    journal = Journal(run, loaded.config, parts)
    for step in (1, 2):
        stream.take(2)
        journal.write(StepReport(step, {"loss": 1.0}), progress)
    metrics = read_lines(run.path / "metrics.jsonl")
    assert "time/write" not in metrics[0] and 0 < metrics[1]["time/write"] < 60, "what the step before took"
    assert [(row["data/bad"], row["data/cut"], row["data/folded"]) for row in metrics] == [(7, 2, 1), (7, 4, 1)]
    events = {event["code"]: event for event in run.events() if event["code"] != "created"}
    assert [event["code"] for event in run.events()].count("bad_rows") == 1
    said = events["bad_rows"]["message"]
    assert said.startswith("7 rows cannot be used and are left out: a.jsonl, line 1: the line is not JSON;")
    assert "line 5" in said and "line 6" not in said and "and 2 more" in said
    assert events["rows_cut"]["message"].endswith("the first: r/0")
    assert events["system_folded"]["message"].endswith("the first: r/1")


def journal_of(run: RunDir) -> Journal:
    """The journal of the next start of a run, on a learner of whose state nothing is asked."""
    progress = Progress()
    rows = RowStream([[{"id": "r/0"}]], [1.0], 0, False, progress)
    learner = SimpleNamespace(is_coordinator=True, share=lambda value: value, load=lambda folder: None)
    parts: Any = SimpleNamespace(
        learner=learner,
        total_steps=9,
        config=run.config(),
        stream=RenderedStream(rows, lambda row: row["id"]),
        model_folder=run.path,
        load_extra=lambda folder: None,
    )
    return Journal(run, run.config(), parts)


def test_a_resumed_run_writes_no_half_row_and_says_which_rows_were_lost(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, load_config(CONFIG | {"algorithm": {"name": "sft"}}), "sl")
    first = journal_of(run)
    first.restore(Progress())
    for step in range(1, 5):
        first.write(StepReport(step, {"loss": 1.0 / step}), Progress(step=step))
    store = CheckpointStore(run.checkpoints, 9, 0)
    (store.begin(4) / "weights").write_text("of step 4")
    store.finish(Progress(step=4))
    whole = run.metrics()
    # Nothing is lost: the report of the step that it goes on from adds nothing and changes nothing.
    again, progress = journal_of(run), Progress()
    again.restore(progress)
    again.write(StepReport(4, {"policy_version": 4.0}), progress)
    assert (progress.step, run.metrics()) == (4, whole)
    # A disk has lost the rows of steps 2 and 4. Said once, however often it goes on.
    lines = (run.path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run.path / "metrics.jsonl").write_text("".join(lines[::2]))
    for _ in range(2):
        again, progress = journal_of(run), Progress()
        again.restore(progress)
        again.write(StepReport(4, {"policy_version": 4.0}), progress)
    assert [(row["step"], row["loss"]) for row in run.metrics()] == [(1, 1.0), (3, 1 / 3)]
    (event,) = [event for event in run.events() if event["code"] == "metrics_lost"]
    assert (event["level"], event["steps"]) == ("warning", [2, 4])
    assert "no row of 2 of the steps up to 4: 2, 4;" in event["message"]
    again.write(StepReport(5, {"loss": 0.2}), progress)
    assert [row["step"] for row in run.metrics()] == [1, 3, 5]
