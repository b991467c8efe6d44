"""Workers that are called together: Ray actors, or objects in this very process. Both answer in the same way.

Every wait has a deadline, a worker that dies is named with its log, and an OxrlError raised inside a worker arrives as
itself. A group is started without waiting: learner and sampler load side by side, the first call waits for both.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import psutil

from oxrl_core.errors import DeadlineError, OxrlError, PlacementError, RunFailure
from oxrl_core.train.host import (
    Host,
    Seat,
    free_port,
    named_failures,
    rank_environment,
    reason_of_death,
    worker_environment,
)
from oxrl_core.train.placement import Share

if TYPE_CHECKING:
    from oxrl_core.config.schema import Config
    from oxrl_core.train.cluster import Cluster

KILL_SECONDS = 1.0  # for Ray's word to reach its actors; on a busy machine it takes seconds, a signal does not
EXIT_SECONDS = 5.0  # for killed actors to be gone, so that their memory is free again

Worker = type | Callable[..., Any]


class WorkerGroup(Protocol):
    """Workers of one class that are called together."""

    @property
    def size(self) -> int:
        """Number of workers."""
        ...

    def call(self, method: str, *args: Any) -> list[Any]:
        """What each worker answers to the same call."""
        ...

    def call_each(self, method: str, args_per_worker: Sequence[tuple[Any, ...]]) -> list[Any]:
        """What each worker answers to its own arguments."""
        ...

    def submit(self, method: str, *args: Any, worker: int = 0) -> Any:
        """A handle to the answer of one worker; given to a call of any group, it arrives there as the answer itself."""
        ...

    def close(self) -> None:
        """Ends the workers."""
        ...


def start_group(
    worker: Worker,
    args_per_worker: Sequence[tuple[Any, ...]],
    *,
    config: Config,
    cluster: Cluster | None,
    name: str,
    share: Share | None = None,
) -> WorkerGroup:
    """One worker per tuple of arguments: Ray actors on the cluster, or objects in this process where there is none.

    The names `learner`, `sampler` and `scorer` get the shares of the run's plan; the learner's workers are also told
    their ranks.
    """
    if cluster is None:
        return LocalGroup(worker, args_per_worker, config=config, name=name)
    if share is None:
        plan = cluster.plan
        shares = {"learner": plan.learner, "sampler": plan.sampler, "scorer": plan.scorer}
        share = shares.get(name, Share(plan.learner.num_cpus))
    return RayGroup.start(worker, args_per_worker, config=config, cluster=cluster, name=name, share=share)


@dataclass(frozen=True)
class Call:
    """A call on its way: the reference of its answer, and who owes it."""

    reference: Any
    method: str
    name: str


@dataclass
class RayGroup:
    """Workers that are Ray actors."""

    cluster: Cluster
    names: list[str]
    hosts: list[Any]
    room: Any
    call_seconds: float
    start_seconds: float
    started: float = field(default_factory=time.monotonic)
    here: dict[str, psutil.Process] = field(default_factory=dict)  # the workers on this machine
    _seat_calls: list[Call] = field(default_factory=list)
    _start_calls: list[Call] = field(default_factory=list)

    @classmethod
    def start(
        cls,
        worker: Worker,
        args_per_worker: Sequence[tuple[Any, ...]],
        *,
        config: Config,
        cluster: Cluster,
        name: str,
        share: Share,
    ) -> RayGroup:
        """A group whose workers are loading; the first call waits for them."""
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        unique = cluster.unique_name(name)
        names = [f"{unique}-{index}" for index in range(len(args_per_worker))]
        room = cluster.reserve(name, len(names), share)
        environment = cluster.environment()
        hosts = [
            ray.remote(Host)
            .options(
                name=actor,
                namespace=cluster.namespace,
                num_cpus=share.num_cpus,
                num_gpus=share.num_gpus,
                max_restarts=0,
                max_task_retries=0,
                runtime_env={"env_vars": environment},
                scheduling_strategy=PlacementGroupSchedulingStrategy(room, placement_group_bundle_index=index),
            )
            .remote(actor, str((cluster.logs / f"{actor}.log").absolute()))
            for index, actor in enumerate(names)
        ]
        group = cls(cluster, names, hosts, room, config.run.call_timeout_seconds, config.run.start_timeout_seconds)
        cluster.names_by_actor |= {host._actor_id.hex(): actor for host, actor in zip(hosts, names, strict=True)}
        cluster.groups.append(group)
        meeting = hosts[0].rendezvous.remote(cluster.is_one_node()) if name == "learner" else None
        for rank, (host, args, actor) in enumerate(zip(hosts, args_per_worker, names, strict=True)):
            group._seat_calls.append(Call(host.seat.remote(), "start", actor))
            built = host.build.remote(worker, tuple(args), rank, len(hosts), meeting)
            group._start_calls.append(Call(built, "start", actor))
        return group

    @property
    def size(self) -> int:
        """Number of workers."""
        return len(self.hosts)

    def call(self, method: str, *args: Any) -> list[Any]:
        """What each worker answers to the same call."""
        return self.call_each(method, [args] * self.size)

    def call_each(self, method: str, args_per_worker: Sequence[tuple[Any, ...]]) -> list[Any]:
        """What each worker answers to its own arguments."""
        self._wait_for_start()
        calls = [
            Call(host.call.remote(method, *args), method, name)
            for host, args, name in zip(self.hosts, args_per_worker, self.names, strict=True)
        ]
        return self._collect(calls, self.call_seconds)

    def submit(self, method: str, *args: Any, worker: int = 0) -> Any:
        """A handle to the answer of one worker, which never passes through this process."""
        self._wait_for_start()
        handle, receipt = self.hosts[worker].submit.options(num_returns=2).remote(method, *args)
        self.cluster.submitted.append(Call(receipt, method, self.names[worker]))
        return handle

    def kill(self) -> None:
        """Tells the actors to end, without waiting for any."""
        import ray

        if ray.is_initialized():
            for host in self.hosts:
                ray.kill(host, no_restart=True)

    def close(self) -> None:
        """Kills the actors and waits for those of this machine to be gone."""
        import ray

        if not self.hosts or not ray.is_initialized():
            return
        self.kill()
        self.hosts = []
        self.cluster.submitted = [call for call in self.cluster.submitted if call.name not in self.names]
        # Ray's word comes first: it would report a process that dies without it as a failure.
        if not self._are_gone_within(KILL_SECONDS):
            for process in self.here.values():
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            self._are_gone_within(EXIT_SECONDS)
        self.cluster.release(self.room)
        self.cluster.groups.remove(self)

    def _are_gone_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while any(process.is_running() for process in self.here.values()):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def _wait_for_start(self) -> None:
        if not self._start_calls:
            return
        import ray

        try:
            self._collect(self._start_calls, self.start_seconds, since=self.started)
        except DeadlineError as error:
            references = [call.reference for call in self._seat_calls]
            placed, _ = ray.wait(references, num_returns=self.size, timeout=0)
            absent = ", ".join(call.name for call in self._seat_calls if call.reference not in placed)
            if absent:
                raise PlacementError(
                    f"no process for {absent} within {self.start_seconds:g} s",
                    where=absent,
                    next_step="see whether the cluster's nodes are alive (`ray status`) and have this environment",
                ) from error
            raise
        seats: list[Seat] = self._collect(self._seat_calls, self.call_seconds)
        node = ray.get_runtime_context().get_node_id()
        for name, seat in zip(self.names, seats, strict=True):
            if seat.node_id == node:
                with suppress(psutil.NoSuchProcess):
                    self.here[name] = psutil.Process(seat.pid)
        self._start_calls = []

    def _collect(self, calls: Sequence[Call], seconds: float, since: float | None = None) -> list[Any]:
        """The answers in order. The first failure is raised at once: other ranks may be waiting for the failed one."""
        import ray

        deadline = (time.monotonic() if since is None else since) + seconds
        owed = {call.reference: call for call in calls}
        # Whatever was submitted, to any group, may be what these calls wait for: its failure is theirs.
        watched = {call.reference: call for call in self.cluster.submitted if call.reference not in owed}
        answers: dict[Any, Any] = {}
        try:
            while owed:
                ready, _ = ray.wait([*owed, *watched], timeout=max(0.0, deadline - time.monotonic()))
                if not ready:
                    names = [call.name for call in owed.values()]
                    raise self._deadline_error(calls[0].method, names, seconds)
                for reference in ready:
                    call = owed.pop(reference, None) or watched.pop(reference)
                    answers[reference] = self._get(call, deadline, seconds)
        finally:
            self.cluster.submitted = list(watched.values())
        return [answers[call.reference] for call in calls]

    def _get(self, call: Call, deadline: float, seconds: float) -> Any:
        import ray
        from ray.exceptions import GetTimeoutError, RayError, RayTaskError

        try:
            return ray.get(call.reference, timeout=max(1.0, deadline - time.monotonic()))
        except GetTimeoutError as error:
            raise self._deadline_error(call.method, [call.name], seconds) from error
        except RayError as error:
            cause: BaseException = error
            while isinstance(cause, RayTaskError) and isinstance(cause.cause, BaseException):
                cause = cause.cause
            if isinstance(cause, OxrlError):
                raise cause from None
            # A call that was given the handle of another actor fails with that actor's death.
            name = self.cluster.names_by_actor.get(getattr(cause, "actor_id", None) or "", call.name)
            raise RunFailure(
                f"{name} died during {call.method}: {reason_of_death(cause)}",
                where=name,
                next_step=f"{self._where_to_look(name)}; a process that was killed without a word ran out of memory",
            ) from None

    def _deadline_error(self, method: str, names: list[str], seconds: float) -> DeadlineError:
        for name in names:
            if name in self.here:
                with suppress(psutil.NoSuchProcess):
                    self.here[name].send_signal(signal.SIGUSR2)  # writes the stacks of its threads into its log
        return DeadlineError(
            f"{method} was not answered within {seconds:g} s by {', '.join(names)}",
            where=", ".join(names),
            next_step=f"{self._where_to_look(names[0])} (its end shows where each thread stands), or raise "
            f"run.{'start' if method == 'start' else 'call'}_timeout_seconds",
        )

    def _where_to_look(self, name: str) -> str:
        return f"read {self.cluster.logs / f'{name}.log'}"


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

    def call_each(self, method: str, args_per_worker: Sequence[tuple[Any, ...]]) -> list[Any]:
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
