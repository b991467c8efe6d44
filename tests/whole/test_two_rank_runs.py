"""Runs on two ranks that are gone on with, repeated and handed to others: adapters on Ray with vLLM, and torchrun.

Each is saved in the background. A copy of the run from which everything after its first checkpoint was taken away is
what a kill would have left; it must go on to the very same weights.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from oxrl_core.api.replay import create_replay
from oxrl_core.config.load import load_config
from oxrl_core.rollout.recorder import read_rollouts
from oxrl_core.runs.rundir import RunDir

ROOT = Path(__file__).parent.parent.parent
GSM8K = ROOT / "tests" / "fixtures" / "gsm8k"
SAVES = ["train.async_save=true", "train.save_every=1", "train.keep_checkpoints=3", "train.steps=3"]
ADAPTERS = [
    *("run.backend=ray", "rollout.engine=vllm", "train.num_workers=2", "deepspeed.zero_stage=3"),
    *("model.lora.enabled=true", "train.lr=1e-2", "train.prompts_per_step=6", "rollout.group_size=4"),
    *("train.eval_every=0", "report.sinks=[]"),
]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29617"]

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]


def run_program(*command: str | Path, home: Path) -> str:
    """What a program writes; fails with its last words where it fails."""
    environment = os.environ | {"OXRL_HOME": str(home), "OMP_NUM_THREADS": "1"}
    words = [str(word) for word in command]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=400, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def driver(run: RunDir) -> list[str]:
    return [sys.executable, "-m", "oxrl_core.driver", "--run-dir", str(run.path)]


def as_if_killed(run: RunDir, home: Path) -> RunDir:
    """A copy of the run as it was after the commit of its first checkpoint, in another home."""
    copy = RunDir(home / "runs" / run.run_id)
    shutil.copytree(run.path, copy.path)
    for gone in ("final", "checkpoints/step_00000002", "checkpoints/step_00000003"):
        shutil.rmtree(copy.path / gone)
    lines = (copy.path / "events.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if '"code": "checkpoint"' not in line or '"step": 1}' in line]
    (copy.path / "events.jsonl").write_text("".join(kept))
    return copy


def weights(run: RunDir) -> bytes:
    return (run.path / "final" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run of adapters on two ZeRO-3 ranks, drawn by vLLM."""
    home = tmp_path_factory.mktemp("home")
    run = RunDir.create(home, load_config("copy3", [*ADAPTERS, *SAVES]), "rl")
    run_program(*driver(run), home=home)
    return run


def test_sharded_adapters_are_trained_and_saved_in_the_background(adapted: RunDir) -> None:
    rows = adapted.metrics()
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert max(row["gap/max"] for row in rows[1:]) < 1e-4  # two sharded ranks and vLLM still speak of one policy
    assert all(row["grad_norm"] > 0 for row in rows[1:])
    saved = [event["step"] for event in adapted.events() if event["code"] == "checkpoint"]
    assert saved == [1, 2, 3]


def test_peft_transformers_and_vllm_make_the_same_of_them(adapted: RunDir) -> None:
    script = Path(__file__).with_name("adapter_of_a_run.py")
    found = json.loads(run_program(sys.executable, script, adapted.path, home=adapted.home))
    assert found["same weights"] is True, "oxrl merge gives the bits that the run exported"
    assert found["logit gap"] < 1e-5
    assert found["transformers"] == found["vllm"]
    assert found["transformers"] != found["untrained"], "the adapter does something"


def test_a_step_that_vllm_drew_for_two_ranks_is_repeated_bit_for_bit_without_it(adapted: RunDir) -> None:
    run = create_replay(adapted.home, adapted, 3, [])
    run_program(*driver(run), home=adapted.home)
    result = json.loads((run.path / "replay.json").read_text())
    assert result["equal"] is True, result["differences"]
    assert result["compared"]["values of rollouts"] > 100
    assert result["compared"]["tensors"] > 0


def test_on_ray_a_run_goes_on_from_a_checkpoint_of_the_background_bit_for_bit(adapted: RunDir, tmp_path: Path) -> None:
    copy = as_if_killed(adapted, tmp_path)
    run_program(*driver(copy), home=tmp_path)
    assert any(event.get("checkpoint") == "step_00000001" for event in copy.events() if event["code"] == "resumed")
    assert weights(copy) == weights(adapted)
    for step in (2, 3):
        name = f"step-{step:08d}.parquet"
        assert read_rollouts(copy.rollouts / name) == read_rollouts(adapted.rollouts / name)


def test_under_torchrun_as_well(tmp_path: Path) -> None:
    overrides = [
        *(f"data.train={GSM8K / 'train.jsonl'}", "data.eval=[]", "model.path=miniature:qwen2.5-0.5b-instruct"),
        *("run.backend=local", "train.num_workers=2", "train.rows_per_step=4", "deepspeed.zero_stage=2"),
    ]
    program = [*TORCHRUN, ROOT / "main_sl.py", "--config-file", "gsm8k-sft", *overrides, *SAVES]
    run_program(*program, home=tmp_path)
    (run,) = [RunDir(path) for path in (tmp_path / "runs").iterdir()]
    assert [row["step"] for row in run.metrics()] == [0, 1, 2, 3]
    copy = as_if_killed(run, tmp_path / "elsewhere")
    run_program(*TORCHRUN, "-m", "oxrl_core.driver", "--run-dir", copy.path, home=tmp_path / "elsewhere")
    assert [row["step"] for row in copy.metrics()] == [0, 1, 2, 3]
    assert weights(copy) == weights(run)
