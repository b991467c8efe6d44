"""How much memory a process holds: of the host always, of its GPU where it has one. Read once a step, for little."""

from __future__ import annotations

import math
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from oxrl_core.types import Metrics

if TYPE_CHECKING:
    import torch

GIB = 2**30
PAGES = Path("/proc/self/statm")


def host_memory(who: str) -> Metrics:
    """Resident memory of this process in GiB, as `memory/<who>_gib`; {} where the kernel does not say."""
    try:
        resident = int(PAGES.read_text().split()[1])
    except (OSError, IndexError, ValueError):  # no Linux
        return {}
    return {f"memory/{who}_gib": resident * os.sysconf("SC_PAGE_SIZE") / GIB}


class ChildrenMemory:
    """Resident memory of all processes below this one: samplers, ranks, verifiers. Looked up now and then."""

    def __init__(self, every_seconds: float = 5.0) -> None:
        self.every_seconds = every_seconds
        self._found: Metrics = {}
        self._looked_at = -math.inf

    def metrics(self) -> Metrics:
        """`memory/children_gib` as it was at most `every_seconds` ago; {} where there are none."""
        if time.monotonic() - self._looked_at >= self.every_seconds:
            self._looked_at = time.monotonic()
            sizes = _resident_below(os.getpid())
            self._found = {"memory/children_gib": sum(sizes) / GIB} if sizes else {}
        return self._found


def _resident_below(pid: int) -> list[int]:
    """Bytes of each living descendant of a process."""
    parents: dict[int, list[tuple[int, int]]] = {}
    page = os.sysconf("SC_PAGE_SIZE")
    for folder in Path("/proc").iterdir() if PAGES.exists() else ():
        if folder.name.isdigit():
            with suppress(OSError, IndexError, ValueError):  # it has ended meanwhile
                # The name, in brackets, may hold anything; numbers stand behind its last bracket.
                fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
                parents.setdefault(int(fields[1]), []).append((int(folder.name), int(fields[21]) * page))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        for child, size in parents.pop(waiting.pop(), []):
            found.append(size)
            waiting.append(child)
    return found


def trainer_memory(device: torch.device) -> Metrics:
    """Memory of a training rank: resident, and of its GPU the peaks since the last call, allocated and reserved."""
    found = host_memory("trainer")
    if device.type == "cuda":
        import torch

        found["memory/gpu_peak_gib"] = torch.cuda.max_memory_allocated(device) / GIB
        found["memory/gpu_reserved_gib"] = torch.cuda.max_memory_reserved(device) / GIB
        torch.cuda.reset_peak_memory_stats(device)
    return found
