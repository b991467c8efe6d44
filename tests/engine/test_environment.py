from __future__ import annotations

import platform
import resource
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


def test_a_rank_loads_neither_mlflow_nor_the_compiler_and_leaves_both_to_those_who_want_them() -> None:
    code = (
        "import sys\n"
        "from oxrl_core.engine.ranks import join_ranks\n"
        "join_ranks(0, 1, 60.0)\n"
        "from deepspeed.runtime.zero.utils import is_zero_supported_optimizer\n"
        "import torch\n"
        "print(is_zero_supported_optimizer(torch.optim.AdamW([torch.ones(1)])))\n"
        "print(sorted({'mlflow', 'torch._inductor.compile_fx'} & set(sys.modules)))\n"
        "import mlflow\n"
        "print(mlflow.MlflowClient.__name__, torch.compile.__module__)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert answer.stdout.split("\n") == ["True", "[]", "MlflowClient torch", ""]


FAULTS = """
import resource
import sys

import torch

from oxrl_core.engine.environment import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()


def step():
    blocks = [torch.ones(10_000_000) for _ in range(3)]  # 40 MB each, more than glibc keeps by itself
    del blocks


for _ in range(10):  # until the heap has a hole for each block: where small blocks lie between, it grows first
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_freed_memory_is_taken_again_without_page_faults() -> None:
    def faults(how: str) -> int:
        command = [sys.executable, "-c", FAULTS, how]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return int(done.stdout)

    pages = 5 * 3 * 40_000_000 // resource.getpagesize()  # at least, where each step faults them in anew
    given_back, kept = faults("default"), faults("kept")
    if platform.libc_ver()[0] == "glibc" and given_back > pages // 2:  # else huge pages hide what there is to save
        assert kept < given_back / 10
    assert kept <= given_back + 1000
