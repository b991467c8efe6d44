"""What a run takes, and what stands in its way. Imported wherever results are shown: pydantic alone stands above it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, computed_field


class Problem(BaseModel):
    """Something about a configuration that the caller should know."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    code: str
    what: str
    where: str = ""
    next: str = ""
    severity: Literal["error", "warning"] = "error"


class Requirements(BaseModel):
    """What a run takes, and what stands in its way."""

    gpus: int = 0
    """GPUs that it will use; 0: it runs on the CPU."""
    cpu_workers: int = 0
    """Worker processes."""
    memory_gib: float = 0.0
    """Host memory of all processes together (estimate)."""
    gpu_memory_gib: float = 0.0
    """Memory of the fullest GPU (estimate); 0 on the CPU."""
    disk_gib: float = 0.0
    """Disk for checkpoints, the final model, rollouts and downloads (estimate)."""
    num_parameters: int | None = None
    """Parameters of the model; None where they are not known before the download."""
    num_rows: int | None = None
    """Training rows of an epoch; None where they are not known before the download."""
    steps: int | None = None
    """Steps of the run; None where they follow from unknown rows."""
    downloads: list[str] = []
    """What will be fetched from the hub unless it is in the cache."""
    ports: list[str] = []
    """Addresses that the run connects to."""
    problems: list[Problem] = []
    """Errors, then warnings."""

    @computed_field
    @property
    def ok(self) -> bool:
        """Whether nothing stands in the way."""
        return not any(problem.severity == "error" for problem in self.problems)
