"""The environment of a process that trains, to be set before torch and DeepSpeed are imported. Loads neither."""

from __future__ import annotations

import os
from pathlib import Path


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
