from __future__ import annotations

import subprocess
import sys

import pytest

from oxrl_core.engine.environment import engine_environment, has_gpu


def test_a_process_without_a_gpu_is_told_so_before_deepspeed_looks() -> None:
    variables = engine_environment(use_gpu=False)
    assert variables["DS_ACCELERATOR"] == "cpu"
    assert variables["OMP_NUM_THREADS"] == "1"
    assert all(isinstance(value, str) for value in variables.values())


def test_a_gpu_process_keeps_its_accelerator() -> None:
    assert "DS_ACCELERATOR" not in engine_environment(use_gpu=True)


def test_hidden_gpus_are_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not has_gpu()
    assert engine_environment()["DS_ACCELERATOR"] == "cpu"


def test_asking_loads_nothing_heavy() -> None:
    code = (
        "import sys, oxrl_core.engine.environment, oxrl_core.engine.checkpoint, oxrl_core.engine.schedule\n"
        "print(sorted({'torch', 'deepspeed', 'transformers', 'ray', 'numpy'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.strip() == "[]"
