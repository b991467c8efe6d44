"""Workers that are called together: Ray actors, or objects in this very process. Both answer in the same way.

Every wait has a deadline, a worker that dies is named with its log, and an OxrlError raised inside a worker arrives as
itself. A group is started without waiting: learner and sampler load side by side, the first call waits for both.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import psutil

from oxrl_core.errors import DeadlineError, OxrlError, PlacementError, RunFailure, WorkerDied
from oxrl_core.train.host import Host, Seat, reason_of_death
from oxrl_core.train.local_group import LocalGroup
from oxrl_core.train.placement import Share

if TYPE_CHECKING:
    from oxrl_core.config.schema import Config
    from oxrl_core.train.cluster import Cluster

KILL_SECONDS = 1.0  # for Ray's word to reach its actors; on a busy machine it takes seconds, a signal does not
EXIT_SECONDS = 5.0  # for killed actors to be gone, so that their memory is free again

DEATH_SECONDS = 5.0  # for the news of the death that made another rank fail

Worker = type | Callable[..., Any]
OnDeath = Callable[[int, WorkerDied], None]  # told the number of a dead worker; returns when another has its place


class WorkerGroup(Protocol):
    """Workers of one class that are called together."""

    @property
    def size(self) -> int:
        """Number of workers."""
        ...

    def call(self, method: str, *args: Any) -> list[Any]:
        """What each worker answers to the same call."""
        ...

    def call_each(
        self, method: str, args_per_worker: Sequence[tuple[Any, ...]], on_death: OnDeath | None = None
    ) -> list[Any]:
        """What each worker answers to its own arguments.

        Where one dies and `on_death` puts another in its place, the same is asked of that one.
        """
        ...

    @property
    def can_replace(self) -> bool:
        """Whether a worker can die without this process, and another take its place."""
        ...

    def replace(self, index: int, calls: Sequence[tuple[str, tuple[Any, ...]]] = ()) -> None:
        """Starts another worker in the place of a dead one and makes these calls of it first."""
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
    make_host: Callable[[int, str], Any]  # of a place and a name: the actor
    worker: Worker
    args_per_worker: Sequence[tuple[Any, ...]]
    room: Any
    call_seconds: float
    start_seconds: float
    started: float = field(default_factory=time.monotonic)
    hosts: list[Any] = field(default_factory=list)
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

        def make_host(index: int, actor: str) -> Any:
            options = ray.remote(Host).options(
                name=actor,
                namespace=cluster.namespace,
                num_cpus=share.num_cpus,
                num_gpus=share.num_gpus,
                max_restarts=0,
                max_task_retries=0,
                runtime_env={"env_vars": environment},
                scheduling_strategy=PlacementGroupSchedulingStrategy(room, placement_group_bundle_index=index),
            )
            host = options.remote(actor, str((cluster.logs / f"{actor}.log").absolute()))
            cluster.names_by_actor[host._actor_id.hex()] = actor
            return host

        seconds = config.run.call_timeout_seconds, config.run.start_timeout_seconds
        group = cls(cluster, names, make_host, worker, args_per_worker, room, *seconds)
        group.hosts = [make_host(index, actor) for index, actor in enumerate(names)]
        cluster.groups.append(group)
        meeting = group.hosts[0].rendezvous.remote(cluster.is_one_node()) if name == "learner" else None
        for index in range(len(names)):
            group._load(index, meeting)
        return group

    def _load(self, index: int, meeting: Any = None) -> None:
        """Lets an actor make its worker; the next call waits for it."""
        host, name = self.hosts[index], self.names[index]
        self._seat_calls.append(Call(host.seat.remote(), "start", name))
        built = host.build.remote(self.worker, tuple(self.args_per_worker[index]), index, len(self.hosts), meeting)
        self._start_calls.append(Call(built, "start", name))

    @property
    def can_replace(self) -> bool:
        """An actor is a process of its own."""
        return True

    def replace(self, index: int, calls: Sequence[tuple[str, tuple[Any, ...]]] = ()) -> None:
        """Starts another actor in the place of a dead one, waits until it is there, and makes these calls first."""
        import ray

        ray.kill(self.hosts[index], no_restart=True)  # one that merely cannot be reached must not come back
        self.here.pop(self.names[index], None)
        place = self.names[index].split(".life-")[0]
        self.names[index] = f"{place}.life-{self.cluster.count_life(place)}"
        self.hosts[index] = self.make_host(index, self.names[index])
        self.started = time.monotonic()
        self._load(index)
        self._wait_for_start()
        for method, args in calls:
            answer = self.hosts[index].call.remote(method, *args)
            self._collect([Call(answer, method, self.names[index])], self.call_seconds)

    @property
    def size(self) -> int:
        """Number of workers."""
        return len(self.hosts)

    def call(self, method: str, *args: Any) -> list[Any]:
        """What each worker answers to the same call."""
        return self.call_each(method, [args] * self.size)

    def call_each(
        self, method: str, args_per_worker: Sequence[tuple[Any, ...]], on_death: OnDeath | None = None
    ) -> list[Any]:
        """What each worker answers to its own arguments; `on_death` puts another in the place of one that died."""
        self._wait_for_start()

        def ask(index: int) -> Call:
            answer = self.hosts[index].call.remote(method, *args_per_worker[index])
            return Call(answer, method, self.names[index])

        def ask_another(index: int, death: WorkerDied) -> Call:
            if on_death is None or death.where != self.names[index]:  # what it was given came from a dead worker
                raise death
            on_death(index, death)
            return ask(index)

        return self._collect([ask(index) for index in range(self.size)], self.call_seconds, ask_another=ask_another)

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
            placed, _ = ray.wait(references, num_returns=len(references), timeout=0)
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
        for call, seat in zip(self._seat_calls, seats, strict=True):
            if seat.node_id == node:
                with suppress(psutil.NoSuchProcess):
                    self.here[call.name] = psutil.Process(seat.pid)
        self._start_calls, self._seat_calls = [], []

    def _collect(
        self,
        calls: Sequence[Call],
        seconds: float,
        since: float | None = None,
        ask_another: Callable[[int, WorkerDied], Call] | None = None,
    ) -> list[Any]:
        """The answers in order. The first failure is raised at once: other ranks may be waiting for the failed one.

        `ask_another` gives the call that takes the place of one whose worker died, or raises.
        """
        import ray

        deadline = (time.monotonic() if since is None else since) + seconds
        asked = list(calls)
        owed = {call.reference: index for index, call in enumerate(asked)}
        # Whatever was submitted, to any group, may be what these calls wait for: its failure is theirs.
        watched = {call.reference: call for call in self.cluster.submitted if call.reference not in owed}
        answers: dict[int, Any] = {}
        try:
            while owed:
                ready, _ = ray.wait([*owed, *watched], timeout=max(0.0, deadline - time.monotonic()))
                if not ready:
                    names = [asked[index].name for index in owed.values()]
                    raise self._deadline_error(calls[0].method, names, seconds)
                for reference in ready:
                    if reference in watched:
                        self._get(watched.pop(reference), deadline, seconds)
                        continue
                    index = owed.pop(reference)
                    try:
                        answers[index] = self._get(asked[index], deadline, seconds)
                    except WorkerDied as death:
                        if ask_another is None:
                            raise
                        asked[index] = ask_another(index, death)
                        owed[asked[index].reference] = index
                        deadline = time.monotonic() + seconds
                    except RunFailure as failure:
                        self._raise_death_behind(failure, [asked[index] for index in owed.values()])
                        raise
        finally:
            self.cluster.submitted = list(watched.values())
        return [answers[index] for index in range(len(asked))]

    def _raise_death_behind(self, failure: RunFailure, others: list[Call]) -> None:
        """Raises the death of another worker, if there is one: a rank whose neighbour died often fails first."""
        import ray

        deadline = time.monotonic() + DEATH_SECONDS
        owed = {call.reference: call for call in others} if type(failure) is RunFailure else {}
        while owed:
            ready, _ = ray.wait(list(owed), timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                return
            try:
                self._get(owed.pop(ready[0]), deadline, DEATH_SECONDS)
            except WorkerDied as death:
                raise death from failure
            except OxrlError:
                continue  # another one that failed for the same reason

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
            raise WorkerDied(
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
