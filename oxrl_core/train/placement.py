"""Where the workers run: a Ray cluster of actors, or this very process. Both answer the same calls in the same way.

Every wait has a deadline, a worker that dies is named with its log, and an OxrlError raised inside a worker arrives as
itself. A group is started without waiting: learner and sampler load side by side, the first call waits for both.
"""

from __future__ import annotations

import faulthandler
import math
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import psutil

from oxrl_core.errors import DeadlineError, OxrlError, PlacementError, RunFailure

if TYPE_CHECKING:
    from oxrl_core.config.schema import Config

PLACEMENT_SECONDS = 30.0  # a cluster with room gives it within a second; the rest is for a busy machine
CONNECT_SECONDS = 60.0  # for a cluster that answers but is slow; one that is not there is told within 5 s
EXIT_SECONDS = 10.0  # for killed actors to be gone, so that their memory is free again
MAX_WORKERS_PER_CORE = 8

# Ray's own daemons. A busy machine misses heartbeats, and Ray would declare its only node dead.
RAY_ENVIRONMENT = {
    "RAY_health_check_failure_threshold": "30",
    "RAY_health_check_timeout_ms": "60000",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # every failure is raised where it is waited for; not told twice
}
WORKER_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in the actor's process: weights move in memory
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
CPU_WORKER_ENVIRONMENT = {
    "TORCH_COMPILE_DISABLE": "1",  # vLLM compiles its sampler even in eager mode: 20 s at the first batch
    "DS_ACCELERATOR": "cpu",
}


@dataclass(frozen=True)
class Resources:
    """What a machine or cluster has in all."""

    cpus: float
    gpus_by_node: tuple[float, ...] = ()

    @property
    def gpus(self) -> float:
        """GPUs of all nodes."""
        return sum(self.gpus_by_node)


@dataclass(frozen=True)
class Share:
    """What one worker takes of it."""

    num_cpus: float
    num_gpus: float = 0.0


@dataclass(frozen=True)
class Plan:
    """How the workers of a run divide what there is."""

    learner: Share
    sampler: Share
    is_colocated: bool  # learner and sampler worker i share GPU i
    threads: int | None  # of each worker; none: as the libraries choose


@dataclass(frozen=True)
class Seat:
    """Where a worker sits."""

    pid: int
    node_id: str
    address: str


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

    def fetch(self, handle: Any) -> Any:
        """The answer behind a handle."""
        ...

    def close(self) -> None:
        """Ends the workers."""
        ...


def check_placement(config: Config, resources: Resources) -> None:
    """Raises a PlacementError that names what is asked and what there is, before any worker is started."""
    plan_placement(config, resources)


def plan_placement(config: Config, resources: Resources) -> Plan:
    """What each worker gets; raises where the resources cannot hold the run."""
    learners = config.train.num_workers
    samplers = config.rollout.num_workers if _draws_rollouts(config) else 0
    if resources.gpus == 0:
        return _plan_on_cpu(config, resources, learners + samplers)
    share = _cpu_share(resources, learners + samplers)
    per_sampler = config.rollout.tensor_parallel
    is_colocated = config.rollout.colocate and samplers > 0
    if is_colocated and (per_sampler > 1 or samplers != learners):
        raise PlacementError(
            f"colocated, each GPU holds one learner and one sampler worker; asked are {learners} learners and "
            f"{samplers} samplers of {per_sampler} GPU(s)",
            where="rollout.colocate",
            next_step=f"set rollout.num_workers={learners} and rollout.tensor_parallel=1, or rollout.colocate=false",
        )
    asked = learners if is_colocated else learners + samplers * per_sampler
    if asked > resources.gpus or (samplers and per_sampler > max(resources.gpus_by_node)):
        raise PlacementError(
            f"asked are {asked} GPUs ({learners} for the learner, {asked - learners} for the sampler, of which "
            f"{per_sampler} on one node); there are {resources.gpus:g} on {len(resources.gpus_by_node)} node(s)",
            where="train.num_workers, rollout.num_workers, rollout.tensor_parallel",
            next_step="ask for fewer workers, set rollout.colocate=true, or name a larger cluster in run.ray_address",
        )
    if is_colocated:
        return Plan(Share(share, 0.5), Share(share, 0.5), is_colocated=True, threads=None)
    return Plan(Share(share, 1.0), Share(share, float(per_sampler)), is_colocated=False, threads=None)


def _plan_on_cpu(config: Config, resources: Resources, num_workers: int) -> Plan:
    needs_gpu = {
        "rollout.tensor_parallel": config.rollout.tensor_parallel > 1,
        "deepspeed.offload_optimizer": config.deepspeed.offload_optimizer,
        "deepspeed.offload_params": config.deepspeed.offload_params,
        "model.attention=flash_attention_2": config.model.attention == "flash_attention_2",
    }
    keys = [key for key, asked in needs_gpu.items() if asked]
    if keys:
        raise PlacementError(
            f"{', '.join(keys)} asks for GPUs; there are 0 GPUs and {resources.cpus:g} CPU cores",
            where=keys[0],
            next_step="take these settings back to train on the CPU, or name a cluster with GPUs in run.ray_address",
        )
    if num_workers > MAX_WORKERS_PER_CORE * resources.cpus:
        raise PlacementError(
            f"asked are {num_workers} workers; there are {resources.cpus:g} CPU cores and no GPU",
            where="train.num_workers, rollout.num_workers",
            next_step=f"ask for at most {MAX_WORKERS_PER_CORE} workers a core",
        )
    share = Share(_cpu_share(resources, num_workers))
    return Plan(share, share, is_colocated=False, threads=max(1, int(resources.cpus // num_workers)))


def _cpu_share(resources: Resources, num_workers: int) -> float:
    """The part of a core that each worker books: a whole one, or 1/k of one where the workers outnumber the cores.

    A unit fraction leaves no gaps on any node, so whatever fits in total can be placed.
    """
    workers_per_core = math.ceil(num_workers / max(resources.cpus, 1.0))
    return math.floor(10_000 / workers_per_core) / 10_000  # Ray counts in ten-thousandths


def _draws_rollouts(config: Config) -> bool:
    from oxrl_core.algorithms.base import get_algorithm

    return get_algorithm(config.algorithm.name).kind == "rl"


def free_port() -> int:
    """A TCP port that nobody listens on, on this node."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return listener.getsockname()[1]


class Cluster:
    """The connection to Ray: started on this machine for the run, or an existing cluster joined by address."""

    def __init__(self, config: Config, logs: Path, *, is_own: bool) -> None:
        self.config = config
        self.logs = logs
        self.is_own = is_own
        self.namespace = f"oxrl-{config.run.name}-{uuid.uuid4().hex[:8]}"
        self.plan = plan_placement(config, self.resources())
        self.names_by_actor: dict[str, str] = {}  # a dead actor is known by its id only
        self.groups: list[RayGroup] = []
        self.submitted: list[_Call] = []  # receipts of calls whose answers go from actor to actor
        self._shared_room: Any = None
        self._times_named: Counter[str] = Counter()

    @classmethod
    def start(cls, config: Config, logs: Path) -> Cluster:
        """A cluster that has room for the run; a PlacementError within seconds where there is none."""
        for key, value in RAY_ENVIRONMENT.items():
            os.environ.setdefault(key, value)
        import ray

        logs.mkdir(parents=True, exist_ok=True)
        is_own = not ray.is_initialized()
        if is_own:
            _connect(config)
        try:
            return cls(config, logs, is_own=is_own)
        except BaseException:
            if is_own:
                ray.shutdown()
            raise

    def resources(self) -> Resources:
        """What the living nodes have in all."""
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = tuple(node["GPU"] for node in nodes if node.get("GPU"))
        return Resources(cpus=sum(node.get("CPU", 0.0) for node in nodes), gpus_by_node=gpus)

    def is_one_node(self) -> bool:
        """Whether all workers share this machine."""
        import ray

        return sum(node["Alive"] for node in ray.nodes()) == 1

    def environment(self) -> dict[str, str]:
        """The variables that every worker needs before its first import."""
        return worker_environment(self.config, self.plan.threads, on_gpu=self.resources().gpus > 0)

    def unique_name(self, name: str) -> str:
        """The name, numbered from its second use: the first owner may be dying still."""
        self._times_named[name] += 1
        times = self._times_named[name]
        return name if times == 1 else f"{name}.{times}"

    def reserve(self, name: str, count: int, share: Share) -> Any:
        """A placement group with a place per worker; colocated learner and sampler get the same one."""
        is_shared = self.plan.is_colocated and name in ("learner", "sampler")
        if is_shared and self._shared_room is not None:
            return self._shared_room
        room = self._reserve(name, count, Share(2 * share.num_cpus, 2 * share.num_gpus) if is_shared else share)
        if is_shared:
            self._shared_room = room
        return room

    def _reserve(self, name: str, count: int, share: Share) -> Any:
        import ray

        bundle = {"CPU": share.num_cpus, "GPU": share.num_gpus}
        # Ranks that exchange gradients over GPUs stay close; workers on CPUs go where cores and memory are.
        strategy = "PACK" if share.num_gpus else "SPREAD"
        room = ray.util.placement_group([{k: v for k, v in bundle.items() if v}] * count, strategy=strategy)
        seconds = min(PLACEMENT_SECONDS, self.config.run.start_timeout_seconds)
        if not room.wait(seconds):
            ray.util.remove_placement_group(room)
            there, free = self.resources(), ray.available_resources()
            raise PlacementError(
                f"no room for {count} x {name} with {share.num_cpus:g} CPU and {share.num_gpus:g} GPU each within "
                f"{seconds:g} s; the cluster has {there.cpus:g} CPU and {there.gpus:g} GPU, free are "
                f"{free.get('CPU', 0):g} CPU and {free.get('GPU', 0):g} GPU",
                where=name,
                next_step="wait for the other runs of this cluster to end, or ask for fewer workers",
            )
        return room

    def release(self, room: Any) -> None:
        """Gives a group's room back; a shared one stays until the cluster is closed."""
        import ray

        if room is not self._shared_room:
            ray.util.remove_placement_group(room)

    def close(self) -> None:
        """Kills all actors of the run; a cluster that was started for it ends too."""
        import ray

        for group in list(self.groups):
            group.close()
        if self._shared_room is not None:
            ray.util.remove_placement_group(self._shared_room)
            self._shared_room = None
        if self.is_own and ray.is_initialized():
            ray.shutdown()


def _connect(config: Config) -> None:
    import ray

    address = config.run.ray_address
    try:
        if address is None:
            ray.init(
                address="local",  # never a cluster that happens to be named in the environment
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                _node_ip_address="127.0.0.1",
            )
        else:
            _check_answers(address, min(CONNECT_SECONDS, config.run.start_timeout_seconds))
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except OxrlError:
        raise
    except Exception as error:
        raise PlacementError(
            f"Ray could not be {'started' if address is None else 'joined'}: {_first_line(error)}",
            where="this machine" if address is None else f"run.ray_address={address}",
            next_step="run `oxrl doctor --deep`, or set run.backend: local",
        ) from error


def _check_answers(address: str, seconds: float) -> None:
    """Raises within `seconds` where no cluster answers. Ray's own client waits for minutes, or ends the process."""
    next_step = "start one there (`ray start --head`), correct the address, or leave run.ray_address out"
    host, _, port = address.rpartition(":")
    if port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=min(5.0, seconds)).close()
        except OSError as error:
            raise PlacementError(
                f"nobody answers at {address}: {error}", where="run.ray_address", next_step=next_step
            ) from error
    attempt = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')"
    try:
        done = subprocess.run(
            [sys.executable, "-c", attempt, address], capture_output=True, text=True, timeout=seconds, check=False
        )
        reason = (done.stderr.strip().splitlines() or [""])[-1] if done.returncode else ""
        failed = done.returncode != 0
    except subprocess.TimeoutExpired:
        failed, reason = True, f"no answer within {seconds:g} s"
    if failed:
        raise PlacementError(
            f"no Ray cluster of this version answers at {address}: {reason}",
            where="run.ray_address",
            next_step=next_step,
        )


def worker_environment(config: Config, threads: int | None, *, on_gpu: bool) -> dict[str, str]:
    """The variables that a worker's libraries read while they are imported."""
    variables = dict(RAY_ENVIRONMENT | WORKER_ENVIRONMENT)
    if not on_gpu:
        variables |= CPU_WORKER_ENVIRONMENT
    if threads is not None:
        variables["OMP_NUM_THREADS"] = str(threads)
    if Path(config.model.path).exists() or config.model.path.startswith(("miniature:", "run:")):
        variables["HF_HUB_OFFLINE"] = "1"  # nothing is to be fetched: no waiting for a network that may not be there
    return variables


class Host:
    """The body of every actor: one worker object, its output in a log file of the run."""

    def __init__(self, name: str, log: str) -> None:
        self.name = name
        self.log = log
        self.worker: Any = None
        stream = _redirect_output(Path(log))
        # On a missed deadline the controller sends this signal: the log then shows where every thread stands.
        faulthandler.register(signal.SIGUSR2, file=stream, all_threads=True)

    def seat(self) -> Seat:
        """Where this actor runs."""
        import ray

        return Seat(os.getpid(), ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address())

    def rendezvous(self, is_one_node: bool) -> tuple[str, int]:
        """Address and free port at which the ranks of the group meet; on one node they never leave it."""
        return "127.0.0.1" if is_one_node else self.seat().address, free_port()

    def build(
        self,
        cls: type | Callable[..., Any],
        args: tuple[Any, ...],
        rank: int,
        size: int,
        meeting: tuple[str, int] | None,
    ) -> None:
        """Makes the worker."""
        if meeting is not None:
            os.environ.update(rank_environment(rank, size, *meeting))
        with _named_failures(self.name, "start", self.log):
            self.worker = cls(*args)

    def call(self, method: str, *args: Any) -> Any:
        """What the worker answers."""
        with _named_failures(self.name, method, self.log):
            return getattr(self.worker, method)(*args)

    def submit(self, method: str, *args: Any) -> tuple[Any, None]:
        """What the worker answers, and a receipt that fails where the answer does but weighs nothing."""
        return self.call(method, *args), None


def rank_environment(rank: int, size: int, address: str, port: int) -> dict[str, str]:
    """What torch.distributed reads. Each actor sees its own GPU alone, so its local rank is 0."""
    variables = {
        "RANK": str(rank),
        "LOCAL_RANK": "0",
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
    }
    if address == "127.0.0.1" and sys.platform == "linux":
        variables["GLOO_SOCKET_IFNAME"] = "lo"  # the host's own name may not resolve
    return variables


@contextmanager
def _named_failures(name: str, method: str, log: str) -> Iterator[None]:
    """An OxrlError passes as itself; any other becomes a RunFailure that names the worker and its log."""
    try:
        yield
    except OxrlError:
        raise
    except Exception as error:
        traceback.print_exc()
        next_step = f"read the traceback in {log}" if log else "read the traceback above"
        raise RunFailure(
            f"{method} failed: {type(error).__name__}: {_first_line(error)}", where=name, next_step=next_step
        ) from (error if not log else None)  # a cause of a foreign class may not survive the way through Ray


def _redirect_output(log: Path) -> Any:
    """The stream of the log file, to which this process's stdout and stderr now go."""
    log.parent.mkdir(parents=True, exist_ok=True)
    stream = log.open("a", buffering=1)
    for descriptor in (1, 2):
        os.dup2(stream.fileno(), descriptor)
    sys.stdout = sys.stderr = stream
    return stream


@dataclass(frozen=True)
class _Call:
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
    seats: list[Seat] = field(default_factory=list)
    _seat_calls: list[_Call] = field(default_factory=list)
    _start_calls: list[_Call] = field(default_factory=list)

    @classmethod
    def start(
        cls,
        worker: type | Callable[..., Any],
        args_per_worker: Sequence[tuple[Any, ...]],
        *,
        config: Config,
        cluster: Cluster,
        name: str,
        share: Share,
        env: Mapping[str, str],
    ) -> RayGroup:
        """A group whose workers are loading; the first call waits for them."""
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        unique = cluster.unique_name(name)
        names = [f"{unique}-{index}" for index in range(len(args_per_worker))]
        room = cluster.reserve(name, len(names), share)
        hosts = [
            ray.remote(Host)
            .options(
                name=actor,
                namespace=cluster.namespace,
                num_cpus=share.num_cpus,
                num_gpus=share.num_gpus,
                max_restarts=0,
                max_task_retries=0,
                runtime_env={"env_vars": cluster.environment() | dict(env)},
                scheduling_strategy=PlacementGroupSchedulingStrategy(room, placement_group_bundle_index=index),
            )
            .remote(actor, str((cluster.logs / f"{actor}.log").absolute()))
            for index, actor in enumerate(names)
        ]
        group = cls(cluster, names, hosts, room, config.run.call_timeout_seconds, config.run.start_timeout_seconds)
        for host, actor in zip(hosts, names, strict=True):
            cluster.names_by_actor[host._actor_id.hex()] = actor
        cluster.groups.append(group)
        meeting = hosts[0].rendezvous.remote(cluster.is_one_node()) if name == "learner" else None
        for rank, (host, args, actor) in enumerate(zip(hosts, args_per_worker, names, strict=True)):
            group._seat_calls.append(_Call(host.seat.remote(), "start", actor))
            built = host.build.remote(worker, tuple(args), rank, len(hosts), meeting)
            group._start_calls.append(_Call(built, "start", actor))
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
            _Call(host.call.remote(method, *args), method, name)
            for host, args, name in zip(self.hosts, args_per_worker, self.names, strict=True)
        ]
        return self._collect(calls, self.call_seconds)

    def submit(self, method: str, *args: Any, worker: int = 0) -> Any:
        """A handle to the answer of one worker, which never passes through this process."""
        self._wait_for_start()
        handle, receipt = self.hosts[worker].submit.options(num_returns=2).remote(method, *args)
        self.cluster.submitted.append(_Call(receipt, method, self.names[worker]))
        return handle

    def fetch(self, handle: Any) -> Any:
        """The answer behind a handle."""
        return self._collect([_Call(handle, "fetch", ", ".join(self.names))], self.call_seconds)[0]

    def close(self) -> None:
        """Kills the actors and waits for those of this machine to be gone."""
        import ray

        if not self.hosts or not ray.is_initialized():
            return
        for host in self.hosts:
            ray.kill(host, no_restart=True)
        self.hosts = []
        self.cluster.submitted = [call for call in self.cluster.submitted if call.name not in self.names]
        here = ray.get_runtime_context().get_node_id()
        deadline = time.monotonic() + EXIT_SECONDS
        for pid in [seat.pid for seat in self.seats if seat.node_id == here]:
            while psutil.pid_exists(pid) and time.monotonic() < deadline:
                time.sleep(0.02)
        self.cluster.release(self.room)
        self.cluster.groups.remove(self)

    def _wait_for_start(self) -> None:
        if not self._start_calls:
            return
        try:
            self._collect(self._start_calls, self.start_seconds, since=self.started)
        except DeadlineError as error:
            import ray

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
        self.seats = self._collect(self._seat_calls, self.call_seconds)
        self._start_calls = []

    def _collect(self, calls: Sequence[_Call], seconds: float, since: float | None = None) -> list[Any]:
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

    def _get(self, call: _Call, deadline: float, seconds: float) -> Any:
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
                f"{name} died during {call.method}: {_reason_of_death(cause)}",
                where=name,
                next_step=f"{self._where_to_look(name)}; a process that was killed without a word ran out of memory",
            ) from None

    def _deadline_error(self, method: str, names: list[str], seconds: float) -> DeadlineError:
        import ray

        here = ray.get_runtime_context().get_node_id()
        for name, seat in zip(self.names, self.seats, strict=False):
            if name in names and seat.node_id == here and psutil.pid_exists(seat.pid):
                os.kill(seat.pid, signal.SIGUSR2)  # writes the stacks of its threads into its log
        return DeadlineError(
            f"{method} was not answered within {seconds:g} s by {', '.join(names)}",
            where=", ".join(names),
            next_step=f"{self._where_to_look(names[0])} (its end shows where each thread stands), or raise "
            f"run.{'start' if method == 'start' else 'call'}_timeout_seconds",
        )

    def _where_to_look(self, name: str) -> str:
        return f"read {self.cluster.logs / f'{name}.log'}"


def _reason_of_death(error: BaseException) -> str:
    """The sentence of Ray's report that says why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "exit" in line.lower() or "killed" in line.lower() or "memory" in line.lower()]
    return (telling or lines or [type(error).__name__])[-1]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:500]


class LocalGroup:
    """The same workers in this process, one after the other. A call cannot be interrupted, so it has no deadline."""

    def __init__(
        self,
        worker: type | Callable[..., Any],
        args_per_worker: Sequence[tuple[Any, ...]],
        *,
        config: Config,
        name: str,
        env: Mapping[str, str],
    ) -> None:
        if name == "learner" and len(args_per_worker) > 1:
            raise PlacementError(
                f"one process holds one training rank; asked are {len(args_per_worker)}",
                where="run.backend=local",
                next_step="set train.num_workers=1, or run.backend=ray",
            )
        self.names = [f"{name}-{index}" for index in range(len(args_per_worker))]
        import torch

        has_gpu = torch.cuda.is_available()
        for key, value in (worker_environment(config, None, on_gpu=has_gpu) | dict(env)).items():
            os.environ.setdefault(key, value)
        # The rank's variables are taken back after the start: left behind, they would look like a launch by torchrun.
        ranks = rank_environment(0, 1, "127.0.0.1", free_port()) if name == "learner" else {}
        before = {key: os.environ.get(key) for key in ranks}
        os.environ.update(ranks)
        try:
            self.workers = []
            for own_name, args in zip(self.names, args_per_worker, strict=True):
                with _named_failures(own_name, "start", ""):
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
        with _named_failures(self.names[worker], method, ""):
            return getattr(self.workers[worker], method)(*args)

    def fetch(self, handle: Any) -> Any:
        """The answer itself."""
        return handle

    def close(self) -> None:
        """Lets the workers go."""
        self.workers = []


def start_group(
    worker: type | Callable[..., Any],
    args_per_worker: Sequence[tuple[Any, ...]],
    *,
    config: Config,
    cluster: Cluster | None,
    name: str,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    env: Mapping[str, str] | None = None,
) -> WorkerGroup:
    """One worker per tuple of arguments: Ray actors on the cluster, or objects in this process where there is none.

    The names `learner` and `sampler` get the shares of the run's plan; the learner's workers are also told their ranks.
    """
    if cluster is None:
        return LocalGroup(worker, args_per_worker, config=config, name=name, env=env or {})
    plan = cluster.plan
    planned = {"learner": plan.learner, "sampler": plan.sampler}.get(name, Share(plan.learner.num_cpus))
    share = Share(
        planned.num_cpus if num_cpus is None else num_cpus, planned.num_gpus if num_gpus is None else num_gpus
    )
    return RayGroup.start(
        worker, args_per_worker, config=config, cluster=cluster, name=name, share=share, env=env or {}
    )
