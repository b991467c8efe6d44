"""Workers in this very process, called as those of train/groups.py are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from oxrl_core.errors import PlacementError
from oxrl_core.train.host import free_port, named_failures, rank_environment, worker_environment

if TYPE_CHECKING:
    from oxrl_core.config.schema import Config
    from oxrl_core.train.groups import OnDeath, Worker


class LocalGroup:
    """The same workers in this process, one after the other. A call cannot be interrupted, so it has no deadline."""

    def __init__(
        self, worker: Worker, args_per_worker: Sequence[tuple[Any, ...]], *, config: Config, name: str
    ) -> None:
        if name == "learner" and len(args_per_worker) > 1:
            raise PlacementError(
                f"one process holds one training rank; asked are {len(args_per_worker)}",
                where="run.backend=local",
                next_step="set train.num_workers=1, or run.backend=ray",
            )
        self.names = [f"{name}-{index}" for index in range(len(args_per_worker))]
        import torch

        for key, value in worker_environment(config, None, on_gpu=torch.cuda.is_available()).items():
            os.environ.setdefault(key, value)
        # The rank's variables are taken back after the start: left behind, they would look like a launch by torchrun.
        ranks = rank_environment(0, 1, "127.0.0.1", free_port()) if name == "learner" else {}
        before = {key: os.environ.get(key) for key in ranks}
        os.environ.update(ranks)
        try:
            self.workers = []
            for own_name, args in zip(self.names, args_per_worker, strict=True):
                with named_failures(own_name, "start"):
                    self.workers.append(worker(*args))
        finally:
            for key, value in before.items():
                if value is None:
                    os.environ.pop(key)
                else:
                    os.environ[key] = value

    @property
    def size(self) -> int:
        """Number of workers."""
        return len(self.names)

    def call(self, method: str, *args: Any) -> list[Any]:
        """What each worker answers to the same call."""
        return self.call_each(method, [args] * self.size)

    @property
    def can_replace(self) -> bool:
        """A worker that dies takes this process with it."""
        return False

    def replace(self, index: int, calls: Sequence[tuple[str, tuple[Any, ...]]] = ()) -> None:
        """There is nothing to replace."""
        raise PlacementError("a worker in this process cannot be replaced", self.names[index], "set run.backend=ray")

    def call_each(
        self, method: str, args_per_worker: Sequence[tuple[Any, ...]], on_death: OnDeath | None = None
    ) -> list[Any]:
        """What each worker answers to its own arguments."""
        return [
            self.submit(method, *args, worker=index)
            for index, args in zip(range(self.size), args_per_worker, strict=True)
        ]

    def submit(self, method: str, *args: Any, worker: int = 0) -> Any:
        """The answer itself."""
        with named_failures(self.names[worker], method):
            return getattr(self.workers[worker], method)(*args)

    def close(self) -> None:
        """Lets the workers go."""
        self.workers = []
