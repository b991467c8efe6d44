"""Starts the rank processes of a test and waits for them."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_ranks(jobs: str, folder: Path, world_size: int, script: str = "rank_jobs.py") -> dict[str, Any]:
    """Rank 0's results, after all rank processes have ended well."""
    port = str(free_port())
    path = Path(__file__).with_name(script)
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", str(path), jobs, str(folder), str(rank), str(world_size), port],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world_size)
    ]
    try:
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output[-4000:]
    return json.loads((folder / f"results-{jobs}-world{world_size}-rank0.json").read_text())
