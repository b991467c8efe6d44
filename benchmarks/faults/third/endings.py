"""Runs that are ended by their machine, their libraries or somebody else, or never begin."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from benchmarks.faults.define import Fault
from benchmarks.faults.patches import before_updates
from oxrl_core.runs.rundir import RunDir

NCCL_TIMEOUT = (
    "[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=1173, OpType=ALLREDUCE, "
    "NumelIn=40960512, NumelOut=40960512, Timeout(ms)=600000) ran for 600078 milliseconds before timing out."
)
CUDA_OOM = (
    "CUDA out of memory. Tried to allocate 9.28 GiB. GPU 0 has a total capacity of 79.11 GiB of which 4.66 GiB is "
    "free. Process 51083 has 74.44 GiB memory in use. Of the allocated memory 71.02 GiB is allocated by PyTorch, and "
    "1.90 GiB is reserved by PyTorch but unallocated."
)


def gpu_is_full(_run: Path) -> None:
    """The logits of a long row do not fit on the GPU: what torch raises there."""
    import torch

    def fail(engine: Any) -> None:
        if engine.num_steps >= 6:
            raise torch.OutOfMemoryError(CUDA_OOM)

    before_updates(fail)


def rank_never_comes(_run: Path) -> None:
    """A collective of NCCL times out: what torch raises there."""
    import torch.distributed as dist

    def fail(engine: Any) -> None:
        if engine.num_steps >= 6:
            raise dist.DistBackendError(NCCL_TIMEOUT)

    before_updates(fail)


def no_memory_for_verifiers(_run: Path) -> None:
    """The machine cannot start another process."""
    from oxrl_core.rewards import base

    def refuse(*_arguments: Any, **_named: Any) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    base.subprocess.Popen = refuse  # type: ignore[misc,assignment]


def full_at_export(_run: Path) -> None:
    """The disk is full when the final model is written: what safetensors raises there."""
    from safetensors import SafetensorError

    from oxrl_core.engine import export

    def full(*_arguments: Any, **_named: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    export._write = full


def pointer_for_weights(run: Path) -> None:
    """The model's folder was cloned without git-lfs: in place of the weights lies a pointer of three lines."""
    import yaml

    from oxrl_core.models.miniature import make_miniature

    folder = make_miniature("chars", run / "cloned", 0)
    (folder / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\n"
        "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 1688532\n"
    )
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"]["path"] = str(folder)
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def bus_error(_run: Path) -> None:
    """Shared memory is full, and a mapping of it breaks under the process."""

    def crash(engine: Any) -> None:
        if engine.num_steps >= 6:
            os.kill(os.getpid(), signal.SIGBUS)

    before_updates(crash)


def sampler_hangs(_run: Path) -> None:
    """The sampler waits for ever from the fifth generation on."""
    from oxrl_core.rollout.hf_worker import TransformersWorker

    right = TransformersWorker.generate
    calls: list[int] = []

    def hang(self: Any, *arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) >= 5:
            time.sleep(3600)
        return right(self, *arguments, **named)

    TransformersWorker.generate = hang  # type: ignore[method-assign]


def preempt(run: RunDir) -> None:
    """The cluster takes its machine back: SIGTERM to the driver."""
    driver = run.status().driver
    assert driver is not None
    os.kill(driver.pid, signal.SIGTERM)


def made_yesterday(run: RunDir) -> None:
    """The run has waited for a day."""
    path = run.path / "spec.json"
    spec = json.loads(path.read_text())
    yesterday = time.time() - 86400
    spec["created_at"] = yesterday
    spec["created"] = {"time": yesterday, "monotonic": 1.0, "boot": "the one before"}
    path.write_text(json.dumps(spec))
    for file in run.path.rglob("*"):
        os.utime(file, (yesterday, yesterday))


FAULTS = [
    Fault(
        "gpu_is_full",
        "one step needs more memory than the GPU has",
        {"cuda_oom", "host_out_of_memory"},
        "sft",
        plant=gpu_is_full,
    ),
    Fault(
        "rank_never_comes",
        "a collective of NCCL times out",
        {"nccl_timeout", "deadline"},
        "dpo",
        plant=rank_never_comes,
    ),
    Fault(
        "no_memory_for_verifiers",
        "there is no memory for another process",
        {"host_out_of_memory"},
        plant=no_memory_for_verifiers,
    ),
    Fault("full_at_export", "the disk is full when the model is written", {"disk_full"}, "sft", plant=full_at_export),
    Fault(
        "pointer_for_weights",
        "in place of the weights lies a pointer of git-lfs",
        {"hub_corrupt", "wrong_request", "bad_checkpoint"},
        "sft",
        plant=pointer_for_weights,
    ),
    Fault(
        "bus_error",
        "a mapping of shared memory breaks",
        {"crashed"},
        overrides=["run.max_restarts=0"],
        supervised=True,
        plant=bus_error,
    ),
    Fault(
        "sampler_hangs",
        "the sampler waits for ever",
        {"stalled", "deadline"},
        overrides=["run.stall_seconds=8", "run.on_stall=stop", "run.max_restarts=0"],
        supervised=True,
        plant=sampler_hangs,
    ),
    Fault(
        "preempted",
        "the cluster takes its machine back",
        {"stopped_on_request", "killed"},
        "sft",
        ["train.steps=20000", "run.max_restarts=0"],
        supervised=True,
        during=preempt,
    ),
    Fault(
        "budget_of_seconds",
        "run.max_hours was meant to be minutes",
        {"budget_spent"},
        overrides=["run.max_hours=0.004", "train.steps=20000"],
        supervised=True,
    ),
    Fault(
        "made_and_forgotten",
        "the machine was restarted before anybody started the run",
        {"never_started"},
        starts=False,
        after=made_yesterday,
    ),
]
