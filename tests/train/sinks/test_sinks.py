"""Metrics arrive in each tracker, read back with its own library; and no tracker can stop or slow a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from oxrl_core.config.check import check_config
from oxrl_core.config.load import load_config
from oxrl_core.config.sinks import chosen_sinks, missing_sinks
from oxrl_core.runs.rundir import RunDir
from oxrl_core.train import sinks
from oxrl_core.train.sinks import Sinks, facts_of

CONFIG = {"run": {"name": "traced"}, "model": {"path": "miniature:chars"}, "data": {"train": "reverse3"}}
ROWS = [
    {"step": n, "time": 1_700_000_000.0 + n, "reward/mean": n / 8, "loss": 1.0 - n / 4, "bad": None} for n in (1, 2)
]
SECRET = "hf_" + "aBcD1234" * 4


def make_run(home: Path, *overrides: str) -> tuple[RunDir, Any]:
    loaded = load_config(CONFIG, ["report.project=proof", f"data.system_prompt=say {SECRET}", *overrides])
    return RunDir.create(home, loaded, "rl"), loaded.config


def send(run: RunDir, config: Any) -> None:
    going = Sinks(run, config)
    for row in ROWS:
        going.write(row)
    going.close()


def codes(run: RunDir) -> list[str]:
    return [event["code"] for event in run.events(alerts_only=True)]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine the import of a tracker alone may take longer than a run waits for it."""
    monkeypatch.setattr(sinks, "CLOSE_SECONDS", 120.0)


@pytest.mark.usefixtures("patient")
def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, config = make_run(tmp_path, "report.sinks=[tensorboard]")
    send(run, config)
    read = EventAccumulator(str(run.path / "tensorboard"))
    read.Reload()
    assert [(one.step, one.value, one.wall_time) for one in read.Scalars("reward/mean")] == [
        (1, 0.125, 1_700_000_001.0),
        (2, 0.25, 1_700_000_002.0),
    ]
    assert sorted(read.Tags()["scalars"]) == ["loss", "reward/mean"]
    shown = read.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "|train.lr|" in shown and SECRET not in shown and "[redacted]" in shown
    assert codes(run) == []


@pytest.mark.usefixtures("patient")
def test_mlflow_reads_what_was_written_and_a_second_start_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run, config = make_run(tmp_path, "report.sinks=[mlflow]")
    send(run, config)
    send(run, config)
    assert codes(run) == []
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("proof")
    assert experiment is not None
    (kept,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(kept.info.run_id, "reward/mean")
    assert sorted({(one.step, one.value) for one in history}) == [(1, 0.125), (2, 0.25)]
    assert kept.info.run_name == run.run_id and kept.info.status == "FINISHED"
    assert kept.data.params["train.lr"] == str(config.train.lr)
    assert kept.data.params["data.system_prompt"] == "say [redacted]"


# Reads the run's file: blocks of LevelDB's log format after a header of 7 bytes, each record one of W&B's messages.
READ_WANDB = """
import json, sys
from pathlib import Path
from wandb.proto.wandb_internal_pb2 import Record
(path,) = Path(sys.argv[1]).glob("wandb/offline-run-*/run-*.wandb")
data, position, part = path.read_bytes(), 7, b""
while position + 7 <= len(data):
    if 32768 - position % 32768 < 7:
        position += 32768 - position % 32768
        continue
    size, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
    part += data[position + 7 : position + 7 + size]
    position += 7 + size
    if kind in (1, 4):
        record, part = Record(), part
        record.ParseFromString(part)
        part = b""
        if record.WhichOneof("record_type") == "history":
            items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            print(json.dumps([items["_step"], items["reward/mean"], items["_timestamp"]]))
"""


@pytest.mark.usefixtures("patient")
def test_wandb_holds_the_history_offline_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    run, config = make_run(tmp_path, "report.sinks=[wandb]")
    send(run, config)
    assert codes(run) == []
    done = subprocess.run(
        [sys.executable, "-c", READ_WANDB, str(run.path)], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.splitlines() == ["[1, 0.125, 1700000001.0]", "[2, 0.25, 1700000002.0]"]
    files = [path for path in (run.path / "wandb").rglob("*") if path.is_file()]
    assert files and not any(SECRET.encode() in path.read_bytes() for path in files)


SEND_TO_TRACKIO = """
import json, sys
from oxrl_core.runs.rundir import RunDir
from oxrl_core.train import sinks
sinks.CLOSE_SECONDS = 120.0
run = RunDir(sys.argv[1])
for reward in (0.125, 0.25):
    going = sinks.Sinks(run, run.config())
    going.write({"step": int(reward * 8), "time": 1700000000.0, "reward/mean": reward})
    going.close()
from trackio import SQLiteStorage
logs = SQLiteStorage.get_logs("proof", run.run_id)
print("READ", json.dumps([[row["step"], row["reward/mean"]] for row in logs]))
print("CONFIG", SQLiteStorage.get_run_config("proof", run.run_id))
"""


def test_trackio_reads_what_was_written_and_a_second_start_goes_on(tmp_path: Path) -> None:
    # In a process of its own: trackio chooses its folder when it is imported.
    run, _ = make_run(tmp_path, "report.sinks=[trackio]")
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio")}
    done = subprocess.run(
        [sys.executable, "-c", SEND_TO_TRACKIO, str(run.path)],
        capture_output=True, text=True, timeout=120, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    read = next(line for line in done.stdout.splitlines() if line.startswith("READ"))
    assert json.loads(read[5:]) == [[1, 0.125], [2, 0.25]]
    config = next(line for line in done.stdout.splitlines() if line.startswith("CONFIG"))
    assert "train.lr" in config and SECRET not in config
    assert codes(run) == []


# --- a tracker that misbehaves ---------------------------------------------------------------------------------------


def with_sink(monkeypatch: pytest.MonkeyPatch, **behaviour: Any) -> None:
    """Puts a tracker of the test in TensorBoard's place."""
    sink = SimpleNamespace(**{"write": lambda *_: None, "close": lambda: None} | behaviour)
    module = SimpleNamespace(open_sink=behaviour.get("open_sink", lambda _: sink))
    monkeypatch.setitem(sys.modules, "oxrl_core.train.sinks.to_tensorboard", module)


def test_a_tracker_that_raises_makes_one_alert_and_gets_the_next_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []

    def write(step: int, *_: Any) -> None:
        if step < 3:
            raise ConnectionError(f"no route, token {SECRET}")
        taken.append(step)

    with_sink(monkeypatch, write=write)
    run, config = make_run(tmp_path, "report.sinks=[tensorboard]")
    going = Sinks(run, config)
    for step in (1, 2, 3):
        going.write({"step": step, "time": 0.0})
    going.close()
    assert taken == [3] and codes(run) == ["sink_failed"]
    message = run.events(alerts_only=True)[0]["message"]
    assert "did not take step 1 (ConnectionError: no route" in message and SECRET not in message


def test_a_tracker_that_cannot_be_opened_makes_one_alert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any) -> None:
        raise PermissionError("not yours")

    with_sink(monkeypatch, open_sink=refuse)
    run, config = make_run(tmp_path, "report.sinks=[tensorboard]")
    send(run, config)
    assert codes(run) == ["sink_failed"]


def test_a_tracker_that_hangs_neither_slows_the_steps_nor_keeps_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "CLOSE_SECONDS", 0.3)
    monkeypatch.setattr(sinks, "WAITING_ROWS", 5)
    release = threading.Event()
    with_sink(monkeypatch, write=lambda *_: release.wait(60))
    run, config = make_run(tmp_path, "report.sinks=[tensorboard]")
    going = Sinks(run, config)
    started = time.monotonic()
    for step in range(100):
        going.write({"step": step, "time": 0.0})
    going.close()
    assert time.monotonic() - started < 5
    assert codes(run) == ["sink_behind", "sink_late"]
    release.set()


# --- which trackers --------------------------------------------------------------------------------------------------


def test_auto_is_trackio_only_where_somebody_may_look(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen_sinks(["auto"]) == []  # this is pytest
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    monkeypatch.delenv("CI", raising=False)
    assert chosen_sinks(["auto", "tensorboard", "trackio"]) == ["trackio", "tensorboard"]
    monkeypatch.setenv("CI", "true")
    assert chosen_sinks(["auto"]) == []


def test_a_missing_library_is_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oxrl_core.config import sinks as config_sinks

    monkeypatch.setattr(config_sinks, "find_spec", lambda name: None if name == "wandb" else object())
    assert missing_sinks(["auto", "wandb", "mlflow"]) == ["wandb"]
    config = load_config(CONFIG, ["report.sinks=[wandb]"]).config
    (problem,) = [one for one in check_config(config, home=tmp_path).problems if one.where == "report.sinks"]
    assert problem.severity == "error" and "pip install 'oxrl[tracking]'" in problem.next


def test_facts_are_flat_and_hold_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_PASSWORD", "correct-horse-battery")
    run, config = make_run(tmp_path, "model.path=/models/correct-horse-battery")
    facts = facts_of(run, config)
    assert facts.config["model.path"] == "/models/[redacted]"
    assert facts.config["train.lr"] == config.train.lr
    assert SECRET not in str(facts.config)
