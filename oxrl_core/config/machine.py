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
class Gpu:
    """One GPU as nvidia-smi sees it."""

    index: int
    name: str
    memory_gib: float
    free_gib: float
    driver: str
    compute_capability: str


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
        gpu_memory_gib=tuple(gpu.memory_gib for gpu in find_gpus()),
    )


def existing_parent(path: Path) -> Path:
    """The path itself or the nearest folder above it that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def find_gpus() -> list[Gpu]:
    """GPUs that nvidia-smi lists and CUDA_VISIBLE_DEVICES allows; empty without a driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    fields = "index,name,memory.total,memory.free,driver_version,compute_cap,uuid"
    command = [program, f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return read_gpus(answer.stdout, os.environ.get("CUDA_VISIBLE_DEVICES")) if answer.returncode == 0 else []


def read_gpus(table: str, visible: str | None) -> list[Gpu]:
    """The GPUs in nvidia-smi's answer, less those that CUDA_VISIBLE_DEVICES hides."""
    wanted = None if visible is None else [entry.strip() for entry in visible.split(",") if entry.strip()]
    found: list[Gpu] = []
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) != 7:
            continue
        index, name, total, free, driver, capability, uuid = cells
        if wanted is None or any(entry == index or uuid.startswith(entry) for entry in wanted):
            found.append(Gpu(int(index), name, _gib(total), _gib(free), driver, capability))
    return found


def _gib(cell: str) -> float:
    """GiB of a MiB cell; 0 where the driver answers `[N/A]` (unified memory)."""
    return float(cell) / 1024 if cell.replace(".", "", 1).isdigit() else 0.0


def is_offline() -> bool:
    """Whether nothing may be downloaded from the hub."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


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
