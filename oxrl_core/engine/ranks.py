"""A process becomes a training rank."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from datetime import timedelta
from types import ModuleType
from unittest.mock import patch

import torch
import torch.distributed as dist

from oxrl_core.errors import MachineError


def join_ranks(rank: int, world_size: int, timeout_seconds: float) -> torch.device:
    """This rank's device, once all ranks have met; gloo on CPUs, nccl on GPUs, every collective with the deadline."""
    use_gpu = torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR", "cuda") == "cuda"
    local_rank = int(os.environ.setdefault("LOCAL_RANK", "0"))
    if world_size > 1:  # a process that is alone must not look like a rank of torchrun to the children that it starts
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size))
    if not use_gpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    deepspeed = load_deepspeed()
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # Else the first start compiles a C++ extension for a minute, which needs a compiler and buys nothing here.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    device = torch.device("cuda", local_rank) if use_gpu else torch.device("cpu")
    if use_gpu:
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        deadline = timedelta(seconds=timeout_seconds)
        backend = "nccl" if use_gpu else "gloo"
        if world_size == 1:  # no port: nobody else has to find it
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=deadline)
        elif "MASTER_ADDR" not in os.environ or "MASTER_PORT" not in os.environ:
            raise MachineError(
                "MASTER_ADDR and MASTER_PORT are not set", f"rank {rank}", "start the ranks with torchrun or Ray"
            )
        else:
            dist.init_process_group(backend, rank=rank, world_size=world_size, timeout=deadline)
    if dist.get_world_size() != world_size or dist.get_rank() != rank:
        raise MachineError(
            f"this process is already rank {dist.get_rank()} of {dist.get_world_size()}",
            f"rank {rank} of {world_size}",
            "use one process for each rank",
        )
    deepspeed.init_distributed(dist_backend=dist.get_backend(), auto_mpi_discovery=False, verbose=False)
    return device


def load_deepspeed() -> ModuleType:
    """DeepSpeed without MLflow (its autotuner wants it) and without torch's compiler (Muon is compiled as it is loaded,
    whatever the optimizer). Nobody here uses them, and loading them would be a third of a rank's imports.
    """
    unwanted = "mlflow" not in sys.modules
    if unwanted:
        sys.modules["mlflow"] = None  # as if it were not installed
    try:
        import deepspeed
    finally:
        if unwanted:
            del sys.modules["mlflow"]
    with suppress(ImportError, AttributeError):  # a DeepSpeed that has neither
        from deepspeed.runtime import compiler

        with patch.object(compiler, "compile", lambda: compiler.dummy_decorator):
            import deepspeed.runtime.zero.muon.original_muon
    return deepspeed
