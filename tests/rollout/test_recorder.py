from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from oxrl_core.errors import RecordError
from oxrl_core.rollout.recorder import GIB, Recorder, StepRecord, read_rollouts
from oxrl_core.train.row_facts import facts_of_items, metrics_of_rows
from oxrl_core.types import Credit, Example, Measurement, PairExample, Prompt, Rollout, Score

MEASUREMENT = Measurement([-0.5, -0.25, -1.0, -2.5], [-1.0] * 4, [0.25] * 4, 0.5)
CREDITS = [Credit([0.5, 0.5, 0.25, 0.25], [1.0] * 4, MEASUREMENT, 0.625), Credit([-0.5] * 4)]
PROMPT = Prompt(id="reverse3/train/4", token_ids=[6, 4, 2, 16], text="420>")


def rollout(index: int, score: Score | None) -> Rollout:
    return Rollout(PROMPT, index, [2, 4, 6, 1], [-0.5, -0.25, -1.0, -2.0], "stop", 11, 2**63 - 1, "024", score)


def record(folder: Path, *steps: StepRecord, max_gib: float | None = None) -> Recorder:
    recorder = Recorder(folder, max_gib)
    for step in steps:
        recorder.write(step)
    recorder.close()
    return recorder


def test_what_is_written_is_read_back_whole(tmp_path: Path) -> None:
    learned = [rollout(0, Score(0.75, parts={"positions": 3.0}, detail="3 of 4")), rollout(1, None)]
    drawn = [rollout(2, Score(0.0, "timeout")), *learned]
    drawn[0].draw = 1
    logprobs = [[-0.5, -0.25, -1.0, -2.5], [0.0] * 4]
    record(tmp_path / "rollouts", StepRecord(12, drawn, learned, CREDITS, logprobs))
    left, first, second = read_rollouts(tmp_path / "rollouts" / "step-00000012.parquet")
    assert first == {
        "step": 12,
        "draw": 0,
        "learned": True,
        "prompt_id": "reverse3/train/4",
        "prompt_text": "420>",
        "prompt_token_ids": [6, 4, 2, 16],
        "completion_token_ids": [2, 4, 6, 1],
        "completion_text": "024",
        "completion_mask": [True] * 4,
        "rollout_logprobs": [-0.5, -0.25, -1.0, -2.0],
        "trainer_logprobs": [-0.5, -0.25, -1.0, -2.5],
        "advantages": [0.5, 0.5, 0.25, 0.25],
        "returns": [1.0] * 4,
        "values": [0.25] * 4,
        "ref_logprobs": [-1.0] * 4,
        "last_value": 0.5,
        "score": 0.75,
        "shaped_reward": 0.625,
        "score_status": "ok",
        "score_parts": {"positions": 3.0},
        "score_detail": "3 of 4",
        "finish_reason": "stop",
        "policy_version": 11,
        "seed": 2**63 - 1,
        "sample_index": 0,
    }
    assert (second["score"], second["score_status"], second["score_parts"]) == (None, None, {})
    assert (second["advantages"], second["returns"], second["values"]) == ([-0.5] * 4, None, None)
    # One that was drawn and not learned from is there all the same.
    assert (left["learned"], left["draw"], left["score_status"]) == (False, 1, "timeout")
    assert (left["completion_mask"], left["trainer_logprobs"], left["advantages"]) == ([False] * 4, None, None)


def test_a_folder_reads_in_the_order_of_its_steps(tmp_path: Path) -> None:
    ones = [rollout(0, None)]
    record(tmp_path, *(StepRecord(step, ones, ones) for step in (10, 9, 100)))
    rows = read_rollouts(tmp_path)
    assert [row["step"] for row in rows] == [9, 10, 100]
    assert (rows[0]["learned"], rows[0]["trainer_logprobs"], rows[0]["advantages"]) == (True, None, None)


def test_a_supervised_step_names_its_rows_and_what_of_them_was_trained_on(tmp_path: Path) -> None:
    end, prompt = 1, [7, 8, 9]
    whole = Example([*prompt, 4, 5, end], [False] * 3 + [True] * 3)
    shifted = Example([*prompt, 4, 5, end], [False] * 2 + [True] * 3 + [False])  # one place too far to the left
    pair = PairExample(whole, Example([*prompt, 6], [False] * 3 + [True]))  # its rejected completion does not end
    items = [whole, shifted, pair]
    facts = facts_of_items(items, {end})
    record(tmp_path, StepRecord(3, row_ids=["a/train/7", "a/train/2", "a/train/5"], row_facts=facts))
    first, second, third = read_rollouts(tmp_path)
    assert first == {
        "step": 3,
        "row_id": "a/train/7",
        "policy_version": 2,
        "tokens": 6,
        "trained": 3,
        "first_trained": 3,
        "behind": 0,
        "ends": True,
        "doubled": -1,
    }
    assert (second["first_trained"], second["behind"], second["ends"]) == (2, 1, False)
    assert (third["row_id"], third["tokens"], third["trained"], third["ends"]) == ("a/train/5", 10, 4, False)
    assert metrics_of_rows(facts) == {"mask/eos": pytest.approx(1 / 3), "mask/trained": pytest.approx(10 / 3)}


def test_a_step_that_cannot_be_written_is_said_on_the_training_thread_and_leaves_no_file(tmp_path: Path) -> None:
    bad = rollout(0, None)
    bad.token_ids = ["not a token"]  # type: ignore[list-item]
    recorder = Recorder(tmp_path)
    recorder.write(StepRecord(7, [bad]))
    with pytest.raises(RecordError, match="step 7 could not be written"):
        recorder.flush()
    with pytest.raises(RecordError):
        recorder.write(StepRecord(8, [rollout(0, None)]))
    with pytest.raises(RecordError):
        recorder.close()
    assert list(tmp_path.iterdir()) == []


def test_credits_must_match_the_rollouts(tmp_path: Path) -> None:
    two = [rollout(0, None), rollout(1, None)]
    with pytest.raises(RecordError, match="shorter"):
        record(tmp_path, StepRecord(1, two, two, CREDITS[:1]))


def test_a_record_within_its_size_keeps_every_step_and_a_larger_one_every_second_of_the_old(tmp_path: Path) -> None:
    ones = [rollout(0, None)]
    record(tmp_path / "one", StepRecord(1, ones))
    size = next((tmp_path / "one").iterdir()).stat().st_size
    said: list[str] = []
    recorder = Recorder(tmp_path / "many", 8.5 * size / GIB, lambda level, code, message: said.append(code))
    for step in range(1, 13):
        recorder.write(StepRecord(step, ones))
    recorder.close()
    left = [int(path.stem[5:]) for path in sorted((tmp_path / "many").iterdir())]
    # The ninth step is one too many: of the older half, 1 2 3 4, go 2 and 4; of the next, 1 3 5 6, go 3 and 6.
    assert left[-4:] == [9, 10, 11, 12]
    assert 1 in left and len(left) <= 8
    assert sum(path.stat().st_size for path in (tmp_path / "many").iterdir()) <= 8.5 * size
    assert said == ["record_thinned"]


KILLED = """
import sys, time
sys.path.insert(0, sys.argv[2])
from test_recorder import rollout
from oxrl_core.rollout.recorder import Recorder, StepRecord
recorder = Recorder(sys.argv[1])
for step in range(1, 100000):
    recorder.write(StepRecord(step, [rollout(index, None) for index in range(50)]))
    recorder.flush()
    print(step, flush=True)
"""


def test_what_was_flushed_is_whole_after_a_kill_and_what_was_torn_is_swept(tmp_path: Path) -> None:
    folder = tmp_path / "rollouts"
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder), str(Path(__file__).parent)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    flushed = 0
    while flushed < 20:
        flushed = int(child.stdout.readline())
    time.sleep(0.003)
    child.send_signal(signal.SIGKILL)
    flushed = max([flushed, *(int(line) for line in child.stdout.read().split())])
    child.wait(10)
    (folder / f"step-00000099.{os.getpid()}.tmp").write_bytes(b"PAR1 torn")
    record(folder)
    for step in range(1, flushed + 1):
        assert len(read_rollouts(folder / f"step-{step:08d}.parquet")) == 50
    assert not list(folder.glob("*.tmp"))
