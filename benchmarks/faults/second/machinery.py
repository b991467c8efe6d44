"""Own losses, weights and processes that break."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path
from typing import Any

from benchmarks.faults.define import HERE, Fault, own
from benchmarks.faults.patches import before_updates, without_gradient
from oxrl_core.runs.rundir import RunDir

PLANTS = HERE / "second_plants.py"
PATIENCE = 240.0  # seconds for a process to come back


def backbone_frozen(_run: Path) -> None:
    """Everything but the embeddings and the head gets no gradient, as after a forgotten `freeze()`."""
    without_gradient(lambda name: ".layers." in name)


def quota_spent(_run: Path) -> None:
    """The user's quota of the file system is spent when the fifth step is recorded."""
    from oxrl_core.rollout.recorder import Recorder

    write = Recorder._write

    def written(self: Recorder, record: object) -> None:
        if record.step >= 5:  # type: ignore[attr-defined]
            raise OSError(errno.EDQUOT, "Disk quota exceeded", "rollouts/step-00000005.parquet")
        write(self, record)  # type: ignore[arg-type]

    Recorder._write = written  # type: ignore[method-assign,assignment]


def segfault(_run: Path) -> None:
    """A kernel reads where it may not."""

    def crash(engine: Any) -> None:
        if engine.num_steps >= 6:
            os.kill(os.getpid(), signal.SIGSEGV)

    before_updates(crash)


def hangs_at_step_4(_run: Path) -> None:
    """A collective waits for a rank that never comes."""

    def hang(engine: Any) -> None:
        if engine.num_steps >= 4:
            time.sleep(3600)

    before_updates(hang)


def kill_every_driver(run: RunDir) -> None:
    """The kernel kills the driver, and the one that is started in its place."""
    killed: set[int] = set()
    deadline = time.monotonic() + PATIENCE
    while len(killed) < 2 and time.monotonic() < deadline:
        status = run.status()
        if status.has_ended:
            break
        if status.driver is not None and status.driver.pid not in killed:
            os.kill(status.driver.pid, signal.SIGKILL)
            killed.add(status.driver.pid)
        time.sleep(0.2)
    assert len(killed) == 2, "no second driver came"


def kill_supervisor(run: RunDir) -> None:
    """Somebody kills the process that watches, and not the one that trains."""
    supervisor = run.status().supervisor
    assert supervisor is not None
    os.kill(supervisor.pid, signal.SIGKILL)


def power_cut(run: RunDir) -> None:
    """Both processes of the run are gone at once."""
    status = run.status()
    assert status.supervisor is not None and status.driver is not None
    os.kill(status.supervisor.pid, signal.SIGKILL)
    os.kill(status.driver.pid, signal.SIGKILL)


def settle(_run: RunDir) -> None:
    """A moment for the machine to bury the dead."""
    time.sleep(2)


FAULTS = [
    Fault(
        "loss_with_log_of_margin",
        "an own loss takes the logarithm of negative margins",
        {"not_finite"},
        "dpo",
        [f"algorithm.name={own('dpo_with_log_of_margin', PLANTS)}"],
    ),
    Fault(
        "loss_times_zero",
        "an own loss has a weight that stays at 0",
        {"gradient_dead"},
        "sft",
        [f"algorithm.name={own('sft_times_zero', PLANTS)}"],
    ),
    Fault(
        "loss_of_wrong_shape",
        "an own loss has a mask of one column too many",
        {"unexplained_failure", "size_mismatch", "wrong_request"},
        "sft",
        [f"algorithm.name={own('sft_of_wrong_shape', PLANTS)}"],
    ),
    Fault("backbone_frozen", "no layer gets a gradient", {"frozen_weights"}, "dpo", [], plant=backbone_frozen),
    Fault("quota_spent", "the disk quota is spent while recording", {"disk_full"}, plant=quota_spent),
    Fault(
        "segfault",
        "a native library crashes",
        {"crashed"},
        overrides=["run.max_restarts=0"],
        supervised=True,
        plant=segfault,
    ),
    Fault(
        "hung_collective",
        "the trainer waits for ever at step 4",
        {"stalled", "deadline"},
        overrides=["run.stall_seconds=10", "run.on_stall=stop", "run.max_restarts=0"],
        supervised=True,
        plant=hangs_at_step_4,
    ),
    Fault(
        "killed_again_and_again",
        "every driver is killed by SIGKILL, until no restart is left",
        {"killed", "host_out_of_memory"},
        overrides=["train.steps=5000", "run.max_restarts=1"],
        supervised=True,
        during=kill_every_driver,
    ),
    Fault(
        "supervisor_killed",
        "the supervisor is killed, the driver lives",
        {"supervisor_killed"},
        "sft",
        ["train.steps=1500"],
        supervised=True,
        during=kill_supervisor,
        after=settle,
    ),
    Fault(
        "power_cut",
        "supervisor and driver vanish at once",
        {"lost"},
        "sft",
        ["train.steps=20000"],
        supervised=True,
        during=power_cut,
        after=settle,
    ),
]
