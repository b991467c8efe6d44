"""The gradient of a step does not depend on micro-batches, packing or the number of ranks, for every kind of loss."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from oxrl_core.models.miniature import make_miniature

SCRIPT = Path(__file__).with_name("learner_jobs.py")
NAMES = ["dpo", "simpo", "orpo", "aot", "beta_dpo", "dr_dpo", "rm", "kto", "bco", "sgrpo", "gspo", "ppo", "kd", "sft"]

pytestmark = pytest.mark.engine


def start(folder: Path, world_size: int) -> None:
    """Runs the processes of all ranks to their end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    commands = [
        [sys.executable, str(SCRIPT), *map(str, (folder, rank, world_size, port))] for rank in range(world_size)
    ]
    ranks = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for command in commands
    ]
    try:
        outputs = [rank.communicate(timeout=400)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0] * world_size, outputs[0][-5000:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where one process and two ranks have left what their weights moved by."""
    folder = tmp_path_factory.mktemp("ranks")
    make_miniature("chars", folder / "model", 0)
    make_miniature("chars", folder / "teacher", 1)
    start(folder, 1)
    start(folder, 2)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_one_gradient_however_the_step_is_cut(name: str, folder: Path) -> None:
    whole = load_file(folder / f"{name}-1-4096-False.safetensors")
    size = max(float(value.abs().max()) for value in whole.values())
    assert size > 1e-3, "a step without a gradient would agree with anything"
    metrics = json.loads((folder / "metrics-1.json").read_text()) | json.loads((folder / "metrics-2.json").read_text())
    others = sorted(folder.glob(f"{name}-[12]-*.safetensors"))
    assert len(others) == (4 if name in ("sft", "kd") else 3)
    for other in others:
        moved = load_file(other)
        worst = max(float((moved[key] - value).abs().max()) for key, value in whole.items())
        assert worst <= 1e-5 * max(size, 1.0), (other.name, worst, size)
        assert metrics[other.stem]["loss"] == pytest.approx(metrics[f"{name}-1-4096-False"]["loss"], abs=1e-5), other
        assert metrics[other.stem]["num_tokens"] == metrics[f"{name}-1-4096-False"]["num_tokens"]
