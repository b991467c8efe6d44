"""What only a GPU can show: bfloat16 against the gate, NCCL, and vLLM asleep while the learner works."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from oxrl_core import api
from oxrl_core.runs.rundir import RunDir


def num_gpus() -> int:
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=False)
    return listed.stdout.count("GPU ")


pytestmark = pytest.mark.engine
needs_gpu = pytest.mark.skipif(num_gpus() < 1, reason="this machine has no NVIDIA GPU")
needs_two = pytest.mark.skipif(num_gpus() < 2, reason="this machine has fewer than two NVIDIA GPUs")


def learn(home, overrides: list[str]) -> list[dict]:
    launched = api.launch_run("copy3", ["train.steps=40", "rollout.engine=vllm", *overrides], home=home)
    *_, view = api.follow(launched.run_id, home=home)
    assert view.state == "finished", view.error
    return RunDir(view.path).metrics()


@needs_gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_learner_and_sampler_share_one_gpu(tmp_path, precision):
    rows = learn(tmp_path, ["rollout.colocate=true", "rollout.memory_fraction=0.3", f"model.precision={precision}"])
    rewards = [row["reward/mean"] for row in rows if "reward/mean" in row]
    assert sum(rewards[-10:]) > sum(rewards[:10])
    assert max(row["gap/mean"] for row in rows if "gap/mean" in row) < (1e-4 if precision == "float32" else 0.05)


@needs_two
def test_learner_and_sampler_have_a_gpu_each(tmp_path):
    rows = learn(tmp_path, ["rollout.colocate=false"])
    assert rows[-1]["sync/fingerprint"] < 0.5
