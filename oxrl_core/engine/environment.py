"""The environment of a process that trains, to be set before torch and DeepSpeed are imported. Loads neither."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of the C library's malloc.h
KEPT_BLOCK, KEPT_MEMORY = 2**28, 2**30  # bytes: what is freed is kept in blocks of at most, and at most so much


def has_gpu() -> bool:
    """Whether this process may see an NVIDIA GPU; asks for the driver's device files: importing torch takes seconds."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1"):
        return False
    return Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists()


def engine_environment(use_gpu: bool | None = None) -> dict[str, str]:
    """Variables for a training process; `use_gpu` none: as this machine has one or not."""
    variables = {
        "TOKENIZERS_PARALLELISM": "false",  # forked tokenizer threads only warn and contend
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TORCH_COMPILE_DISABLE": "1",  # nothing here gains from it; a stray compile costs 20 s at the first batch
        "DO_NOT_TRACK": "1",
    }
    if not (has_gpu() if use_gpu is None else use_gpu):
        # One thread a rank: ranks share the cores, and sums keep one order, so a resumed run is bitwise the same.
        variables |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    return variables


def keep_freed_memory() -> None:
    """Lets this process keep what tensors on the CPU free, as GPUs do, for the next step to take again.

    By default glibc gives large blocks back to the kernel at once, and each step faults the same pages in anew: an
    eighth of a step of a small model. The price is up to a fifth more memory, where small blocks lie between the large
    ones. Another C library is left as it is.
    """
    with suppress(OSError, AttributeError):  # no C library to be asked, or one without mallopt
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, KEPT_BLOCK)
        mallopt(M_TRIM_THRESHOLD, KEPT_MEMORY)
