"""What is asked of a record, and what is answered: by condition, by sample, by step."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from oxrl_core import api
from oxrl_core.cli.app import main
from oxrl_core.errors import ConfigError, DataError, NotFoundError
from oxrl_core.rollout.recorder import Recorder, StepRecord
from oxrl_core.runs.analysis.pieces import read_pieces
from oxrl_core.runs.rundir import RunDir
from oxrl_core.types import Credit, Prompt, Rollout, Score

TOKENIZER = {"added_tokens": [{"id": 1, "content": "<eos>"}], "model": {"vocab": {"a": 2, "\n": 3}}}


def rollout(prompt: str, index: int, reward: float, logprobs: list[float]) -> Rollout:
    ids = [2, 3, 1][-len(logprobs) :]
    end = "stop" if reward else "length"
    score = Score(reward, parts={"format": reward / 2})
    return Rollout(Prompt(prompt, [5, 6], "ab"), index, ids, logprobs, end, 3, index, "a|b\nc", score)  # type: ignore[arg-type]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir.create_from_parts(tmp_path, "kept", "run: {}\n", {"kind": "rl"})
    (tmp_path / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    recorder = Recorder(run.rollouts, tokenizer_file=tmp_path / "tokenizer.json")
    for step in (1, 2, 3):
        two = [rollout("d/train/1", 0, 0.0, [-1.0, -2.0, -0.5]), rollout("d/train/1", 1, 1.0, [-1.0])]
        ours = [[-1.0, -2.0 - step / 10, -0.5], [-1.25 if step < 3 else math.nan]]
        recorder.write(StepRecord(step, two, two, [Credit([-1.0, 0.0, 1.0]), Credit([0.5])], ours))
    recorder.close()
    return run


def ask(run: RunDir, **asked: object) -> list[list[object]]:
    return api.list_rollouts(run.run_id, home=run.home, **asked).rows  # type: ignore[arg-type]


def test_the_last_step_is_shown_where_none_is_named(run):
    view = api.list_rollouts(run.run_id, home=run.home)
    assert (view.steps, view.looked_at, view.total_rows) == ("3", 2, 2)


def test_conditions_choose_and_sorting_puts_the_largest_first(run):
    columns = ["step", "sample", "delta_logprob"]
    rows = ask(run, step="1:2", sort="delta_logprob", columns=columns)
    assert [row[:2] for row in rows] == [[1, 1], [2, 1], [2, 0], [1, 0]]
    assert [row[2] for row in rows] == pytest.approx([0.25, 0.25, 0.2, 0.1])
    assert ask(run, step="all", where="reward=0 and finish_reason=length", columns=["step"]) == [[1], [2], [3]]
    assert ask(run, step="all", where="part.format=0.5", columns=["step", "part.format"], limit=1) == [[1, 0.5]]


def test_a_nan_gap_is_the_worst_and_is_said_in_words(run):
    assert ask(run, step="all", sort="delta_logprob", limit=1, columns=["step", "delta_logprob"]) == [[3, "nan"]]


def test_what_is_not_there_says_what_is(run):
    with pytest.raises(NotFoundError, match="not among the 3 recorded steps, 1 to 3") as caught:
        ask(run, step="9")
    assert caught.value.next_step == "the nearest: 1, 2, 3"
    with pytest.raises(ConfigError, match="no column 'rewrd'"):
        ask(run, sort="rewrd")
    with pytest.raises(ConfigError, match="names no steps"):
        ask(run, step="1-2")
    empty = RunDir.create_from_parts(run.home, "empty", "run: {}\n", {"kind": "rl"})
    with pytest.raises(NotFoundError, match="no step is recorded") as caught:
        ask(empty)
    assert "rollout.record" in caught.value.next_step


def test_a_damaged_file_is_a_typed_error(run):
    (run.rollouts / "step-00000002.parquet").write_bytes(b"PAR1 not any more")
    with pytest.raises(DataError, match="cannot be read"):
        ask(run, step="2")


def test_a_sample_is_shown_token_by_token(run):
    view = api.show_rollout(run.run_id, "2/d/train/1/0", home=run.home)
    assert [token.text for token in view.tokens] == ["a", "\n", "<eos>"]
    assert [token.advantage for token in view.tokens] == [-1.0, 0.0, 1.0]
    assert [token.gap for token in view.tokens] == pytest.approx([0.0, -0.2, 0.0], abs=1e-6)
    assert api.show_rollout(run.run_id, "d/train/1/0", "2", home=run.home) == view
    with pytest.raises(NotFoundError, match="no sample 7 of d/train/1"):
        api.show_rollout(run.run_id, "2/d/train/1/7", home=run.home)


def test_a_record_of_rows_is_asked_for_its_rows(run):
    rows = RunDir.create_from_parts(run.home, "rows", "run: {}\n", {"kind": "sl"})
    recorder = Recorder(rows.rollouts)
    recorder.write(StepRecord(4, row_ids=["x/train/9", "x/train/2"]))
    recorder.close()
    asked = ask(rows, where="row_id ~ 9", columns=["step", "row_id", "policy_version"])
    assert asked == [[4, "x/train/9", 3]]


def test_the_command_speaks_to_people_pipes_and_programs(run, capsys, monkeypatch):
    monkeypatch.setenv("OXRL_HOME", str(run.home))
    assert main(["rollouts", run.run_id, "--step", "all", "--where", "reward=0", "--format", "human"]) == 0
    shown = capsys.readouterr().out
    assert "3 of 6 rows of step 1:3" in shown and max(map(len, shown.splitlines())) <= 80
    assert main(["rollouts", run.run_id, "--step", "1", "--columns", "step,completion", "--format", "agent"]) == 0
    assert "1|a¦b\\nc" in capsys.readouterr().out
    assert main(["rollouts", run.run_id, "--step", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total_rows"] == 2
    assert main(["rollouts", run.run_id, "--show", "2/d/train/1/0", "--color", "gap", "--format", "agent"]) == 0
    assert "\\n|3|-2.2|-0.2" in capsys.readouterr().out
    assert main(["rollouts", run.run_id, "--show", "2/d/train/1/0", "--format", "human"]) == 0
    assert "made likelier" in capsys.readouterr().out
    assert main(["rollouts", run.run_id, "--where", "rewrd=0"]) == 2


def test_pieces_of_bytes_and_of_sentencepiece_become_text(tmp_path: Path):
    byte_level = {"decoder": {"type": "ByteLevel"}, "model": {"vocab": {"Ġhi": 0, "Ċ": 1, "Ã": 2}}}
    spaced = {"model": {"vocab": [["▁hi", -1.0], ["<0x0A>", -2.0]]}}
    for document, ids, texts in (
        (byte_level, [0, 1, 2], [" hi", "\n", "\\xc3"]),
        (spaced, [0, 1, 9], [" hi", "\n", "<9>"]),
    ):
        path = tmp_path / "tokenizer.json"
        path.write_text(json.dumps(document))
        pieces = read_pieces(path)
        assert pieces is not None and pieces(ids) == texts
    assert read_pieces(tmp_path / "none.json") is None
