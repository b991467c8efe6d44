"""What this machine has, read without any heavy import: cores, memory, disk, and GPUs as nvidia-smi lists them."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

GIB = 1024**3
ANSWER_SECONDS = 10.0  # nvidia-smi takes 1 s; a hanging driver must not hang a check


@dataclass(frozen=True)
class Machine:
    """The sizes that a run has to fit into."""

    cpus: int
    memory_gib: float  # all of it, or what the container may use
    free_memory_gib: float
    free_disk_gib: float  # where the runs are written
    gpu_memory_gib: tuple[float, ...] = ()  # one entry per visible GPU


def this_machine(home: Path) -> Machine:
    """The machine that this process runs on; `home` is where its runs will be written."""
    import psutil

    memory = psutil.virtual_memory()
    limit = _container_limit()
    total = min(memory.total, limit) if limit else memory.total
    return Machine(
        cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gib=total / GIB,
        free_memory_gib=min(memory.available, total) / GIB,
        free_disk_gib=shutil.disk_usage(existing_parent(home)).free / GIB,
        gpu_memory_gib=visible_gpus(),
    )


def existing_parent(path: Path) -> Path:
    """The path itself or the nearest folder above it that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def visible_gpus() -> tuple[float, ...]:
    """Memory in GiB of each GPU that nvidia-smi lists and CUDA_VISIBLE_DEVICES allows; empty without a driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    command = [program, "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return read_gpus(answer.stdout, os.environ.get("CUDA_VISIBLE_DEVICES")) if answer.returncode == 0 else ()


def read_gpus(table: str, visible: str | None) -> tuple[float, ...]:
    """The memory column of nvidia-smi's rows `index, uuid, MiB`, without the GPUs that are hidden."""
    wanted = None if visible is None else [entry.strip() for entry in visible.split(",") if entry.strip()]
    found: list[float] = []
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) != 3:
            continue
        index, uuid, mebibytes = cells
        if wanted is not None and not any(entry == index or uuid.startswith(entry) for entry in wanted):
            continue
        # Unified-memory machines answer "[N/A]".
        found.append(float(mebibytes) / 1024 if mebibytes.replace(".", "").isdigit() else 0.0)
    return tuple(found)


def _container_limit() -> int | None:
    """Bytes that the control group allows, or None where there is no limit."""
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(name).read_text().strip()
        except OSError:
            continue
        if text.isdigit() and int(text) < 1 << 60:
            return int(text)
    return None
