"""A rank that torchrun started: every process goes through the same loop, with its own share of each batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.distributed as dist


class TorchrunGroup:
    """The training workers of a torchrun job as this process sees them: one is here, the others run the same loop."""

    def __init__(self, worker: Any, rank: int, world_size: int) -> None:
        self.worker = worker
        self.rank = rank
        self.size = world_size

    def call(self, method: str, *arguments: Any) -> list[Any]:
        """This rank's answer, once every rank is through."""
        result = getattr(self.worker, method)(*arguments)
        dist.barrier()
        return [result]

    def call_each(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """This rank's answer to its own share of the arguments."""
        return self.call(method, *arguments[self.rank])

    def submit(self, method: str, *arguments: Any, worker: int = 0) -> Any:
        """This rank's answer; there is no other process to ask."""
        return self.call(method, *arguments)[0]

    def share(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, on every rank."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def close(self) -> None:
        """Leaves the process group."""
        if dist.is_initialized():
            dist.destroy_process_group()
