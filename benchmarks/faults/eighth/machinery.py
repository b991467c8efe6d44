"""Machines, libraries and files that break, with the texts that they break with."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.faults.define import Fault
from benchmarks.faults.patches import before_updates


def illegal_instruction(_run: Path) -> None:
    """A wheel was built for a newer processor."""

    def crash(engine: Any) -> None:
        if engine.num_steps >= 6:
            os.kill(os.getpid(), signal.SIGILL)

    before_updates(crash)


def rows_behind_a_lock(_run: Path) -> None:
    """The rows' file is locked on a network drive by somebody who has left."""
    from oxrl_core.data.stream import RenderedStream

    right, taken = RenderedStream.take, [0]

    def take(self: Any, *arguments: Any) -> Any:
        taken[0] += 1
        if taken[0] >= 5:
            time.sleep(3600)
        return right(self, *arguments)

    RenderedStream.take = take  # type: ignore[method-assign]


def raised_at(step: int, make: Callable[[], BaseException], said: str = "") -> Callable[[Path], None]:
    """A plant that has a library raise before an update, after it has said something."""

    def plant(_run: Path) -> None:
        def fail(engine: Any) -> None:
            if engine.num_steps >= step:
                print(said, file=sys.stderr, flush=True)
                raise make()

        before_updates(fail)

    return plant


def no_kernel() -> BaseException:
    return RuntimeError(
        "CUDA error: no kernel image is available for execution on the device\n"
        "CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be "
        "incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\n"
        "Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\n"
    )


def shared_memory() -> BaseException:
    return RuntimeError(
        "DataLoader worker (pid 20417) is killed by signal: Bus error. It is possible that dataloader's workers are out"
        " of shared memory. Please try to raise your shared memory limit."
    )


def no_graph() -> BaseException:
    return RuntimeError("element 0 of tensors does not require grad and does not have a grad_fn")


def flash_attention(_run: Path) -> None:
    """The wheel of flash-attention was built against another torch."""
    from oxrl_core.engine.policy import PolicyEngine

    def load(self: Any) -> None:
        raise ImportError(
            "/opt/venv/lib/python3.11/site-packages/flash_attn_2_cuda.cpython-311-x86_64-linux-gnu.so: undefined "
            "symbol: _ZN3c105ErrorC2ENS_14SourceLocationENSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE"
        )

    PolicyEngine._load_trained = load  # type: ignore[method-assign,assignment]


def one_device(_run: Path) -> None:
    """Trainer and server were given the same GPU, and the group of the weight sync cannot be made."""
    from oxrl_core.rollout.hf_worker import TransformersWorker

    def load(self: Any, weights: Any, version: int) -> None:
        from torch.distributed import DistBackendError

        raise DistBackendError(
            "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:94, invalid usage (run with "
            "NCCL_DEBUG=WARN for details), NCCL version 2.26.2\nncclInvalidUsage: This usually reflects invalid usage "
            "of NCCL library.\nLast error:\nDuplicate GPU detected : rank 0 and rank 1 both on CUDA device 34000"
        )

    TransformersWorker.load_weights = load  # type: ignore[method-assign]


def gpu_is_held(_run: Path) -> None:
    """The engine of the last run lives on and holds the GPU."""
    from oxrl_core.rollout.hf_worker import TransformersWorker

    def start(self: Any, *_arguments: Any) -> None:
        print(
            "(EngineCore_DP0 pid=16940) ERROR 11-20 13:53:19 [core.py:718] EngineCore failed to start.\n"
            "(EngineCore_DP0 pid=16940) ERROR 11-20 13:53:19 [core.py:718] ValueError: Free memory on device cuda:0 "
            "(7.34/139.72 GiB) on startup is less than desired GPU memory utilization (0.5, 69.86 GiB). Decrease GPU "
            "memory utilization or reduce GPU memory used by other processes.",
            file=sys.stderr,
            flush=True,
        )
        raise RuntimeError("Engine core initialization failed. See root cause above. Failed core proc(s): {}")

    TransformersWorker.__init__ = start  # type: ignore[method-assign]


def download_cut_off(_run: Path) -> None:
    """The file of the weights ends in the middle, as after a download that was broken off."""
    from oxrl_core.models import load

    right = load.resolve_model

    def resolved(*arguments: Any, **named: Any) -> Path:
        folder = right(*arguments, **named)
        weights = folder / "model.safetensors"
        os.truncate(weights, weights.stat().st_size * 2 // 3)
        return folder

    load.resolve_model = resolved


FAULTS = [
    # vllm: wheels with AVX-512 on a processor without it
    Fault(
        "illegal_instruction",
        "a native library uses an instruction that the processor does not have",
        {"crashed"},
        overrides=["run.max_restarts=0"],
        supervised=True,
        plant=illegal_instruction,
    ),
    # pain 20, verl#7155: it hangs, and no line in any log says so
    Fault(
        "rows_behind_a_lock",
        "from step 5 on the rows cannot be read, for their file is locked",
        {"stalled", "deadline"},
        "rloo",
        ["run.stall_seconds=10", "run.on_stall=stop", "run.max_restarts=0"],
        supervised=True,
        plant=rows_behind_a_lock,
    ),
    # vllm#19906
    Fault(
        "wheel_without_the_kernel",
        "the wheel has no kernels for this GPU",
        {"no_kernel"},
        plant=raised_at(0, no_kernel),
    ),
    # pytorch#5040, refact#262
    Fault(
        "shared_memory_of_a_container",
        "the container has 64 MiB of shared memory",
        {"dl_shm"},
        "sft",
        [],
        plant=raised_at(
            3,
            shared_memory,
            "ERROR: Unexpected bus error encountered in worker. This might be caused by insufficient shared memory "
            "(shm).",
        ),
    ),
    # flash-attention#1832, pain 15
    Fault(
        "flash_attention_of_another_torch",
        "flash-attention was built against another torch",
        {"fa_abi"},
        "dapo",
        [],
        plant=flash_attention,
    ),
    # trl#3706, verl#1096, pain 1
    Fault("two_ranks_on_one_gpu", "trainer and server were given one GPU", {"dup_gpu"}, "rloo", [], plant=one_device),
    # vllm#20305, pain 19
    Fault(
        "orphan_holds_the_gpu",
        "another process holds nearly all of the sampler's GPU",
        {"vllm_gpu_busy"},
        "sgrpo",
        [],
        plant=gpu_is_held,
    ),
    # peft#1142, axolotl#312
    Fault(
        "no_input_requires_a_gradient",
        "with checkpointing and adapters no input requires a gradient",
        {"no_grad_fn"},
        "dpo",
        ["model.lora.enabled=true", "model.gradient_checkpointing=true"],
        plant=raised_at(0, no_graph),
    ),
    # marker#970, airllm#137
    Fault(
        "download_cut_off",
        "the file of the weights ends in the middle",
        {"hub_corrupt", "ckpt_torn"},
        "gspo",
        [],
        plant=download_cut_off,
    ),
]
