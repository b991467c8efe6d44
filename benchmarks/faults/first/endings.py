"""Runs that are ended from outside, or by their machine."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

from benchmarks.faults.define import Fault
from oxrl_core.runs import launch
from oxrl_core.runs.rundir import RunDir


def kill_driver(run: RunDir) -> None:
    """SIGKILL, as the kernel sends it."""
    driver = run.status().driver
    assert driver is not None
    os.kill(driver.pid, signal.SIGKILL)


def stop(run: RunDir) -> None:
    """A person stops it."""
    launch.stop(run, "the night shift needs the machine")


def disk_full(_run: Path) -> None:
    """From the 40th write on the disk is full."""
    from oxrl_core.engine import checkpoint

    def full(*_arguments: object, **_named: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "checkpoints/step_00000005")

    checkpoint.CheckpointStore.begin = full  # type: ignore[method-assign,assignment]


def little_memory(_run: Path) -> None:
    """The process may have only a little more memory than it has now."""
    import resource

    status = Path("/proc/self/status").read_text()
    used = int(status.partition("VmData:")[2].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (used + 48 * 2**20, used + 48 * 2**20))


FAULTS = [
    Fault(
        "killed",
        "the driver is killed by SIGKILL",
        {"killed", "host_out_of_memory"},
        overrides=["train.steps=2000", "run.max_restarts=0"],
        supervised=True,
        during=kill_driver,
    ),
    Fault(
        "stopped",
        "a person stops the run",
        {"stopped_on_request"},
        "sft",
        overrides=["train.steps=20000"],
        supervised=True,
        during=stop,
    ),
    Fault(
        "disk_full",
        "the disk is full at the first checkpoint",
        {"disk_full"},
        "sft",
        ["train.save_every=5"],
        plant=disk_full,
    ),
    Fault(
        "out_of_memory",
        "the machine has no more memory",
        {"host_out_of_memory"},
        overrides=["train.prompts_per_step=64", "rollout.group_size=32", "train.micro_batch_tokens=1000000"],
        plant=little_memory,
    ),
]
