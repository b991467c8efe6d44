"""What a run may spend of hours and GPU-hours, and what it has spent: over all its drivers and supervisors."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from oxrl_core.runs.clock import seconds_since


@dataclass
class Budget:
    """Seconds and GPU-seconds since the launch, and their limits."""

    max_hours: float | None = None
    max_gpu_hours: float | None = None
    seconds: float = 0.0
    gpu_seconds: float = 0.0
    _counted_until: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, spec: Mapping[str, Any], record: Mapping[str, Any]) -> Budget:
        """The budget of a run; of one that was supervised before, with what it spent until now."""
        spent: Mapping[str, float] = record.get("spent") or {}
        unseen = seconds_since(record["heartbeat"]) if record.get("heartbeat") else 0.0
        return cls(
            max_hours=spec.get("max_hours"),
            max_gpu_hours=spec.get("max_gpu_hours"),
            seconds=spent.get("seconds", 0.0) + unseen,
            gpu_seconds=spent.get("gpu_seconds", 0.0) + unseen * spent.get("gpus", 0.0),
        )

    def count(self, gpus: float) -> None:
        """Add the time since the last count; `gpus` were held meanwhile."""
        now = time.monotonic()
        self.seconds += now - self._counted_until
        self.gpu_seconds += gpus * (now - self._counted_until)
        self._counted_until = now

    def exceeded(self) -> str:
        """Which budget is spent, as a sentence; empty: none is."""
        if self.max_hours is not None and self.seconds > self.max_hours * 3600:
            return f"its budget of {self.max_hours:g} hours (run.max_hours) is spent"
        if self.max_gpu_hours is not None and self.gpu_seconds > self.max_gpu_hours * 3600:
            return f"its budget of {self.max_gpu_hours:g} GPU-hours (run.max_gpu_hours) is spent"
        return ""

    def as_dict(self, gpus: float) -> dict[str, float]:
        """What status.json keeps of it."""
        return {"seconds": round(self.seconds, 3), "gpu_seconds": round(self.gpu_seconds, 3), "gpus": gpus}
