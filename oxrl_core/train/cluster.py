"""The connection to Ray: a cluster started on this machine for one run, or an existing one joined by its address."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from oxrl_core.errors import PlacementError
from oxrl_core.train.host import RAY_ENVIRONMENT, first_line, worker_environment
from oxrl_core.train.placement import Resources, Share, plan_placement

if TYPE_CHECKING:
    from oxrl_core.config.schema import Config
    from oxrl_core.train.groups import Call, RayGroup

PLACEMENT_SECONDS = 30.0  # a cluster with room gives it within a second; the rest is for a busy machine
CONNECT_SECONDS = 60.0  # for a cluster that answers but is slow; one that is not there is told within 5 s
TOO_LATE = "timed out during startup"  # what Ray says of daemons that have not answered within 30 s
SHUTDOWN_SECONDS = 2.0  # for Ray's daemons to leave by themselves: they hold nothing that a run would miss


class Cluster:
    """Where the groups of a run have their actors: the plan, their names and logs, and the room that is booked."""

    def __init__(self, config: Config, logs: Path, daemons: list[psutil.Process] | None = None) -> None:
        """`daemons` are those of a Ray that was started for this run; none: somebody else ends what he began."""
        self.config = config
        self.logs = logs
        self.daemons = daemons
        self.namespace = f"oxrl-{config.run.name}-{uuid.uuid4().hex[:8]}"
        self.plan = plan_placement(config, self.resources())
        self.names_by_actor: dict[str, str] = {}  # a dead actor is known by its id only
        self.groups: list[RayGroup] = []
        self.submitted: list[Call] = []  # receipts of calls whose answers go from actor to actor
        self._shared_room: Any = None
        self._times_named: Counter[str] = Counter()
        self._lives: Counter[str] = Counter()  # workers that took the place of a dead one

    @classmethod
    def start(cls, config: Config, logs: Path) -> Cluster:
        """A cluster that has room for the run; a PlacementError within seconds where there is none."""
        for key, value in RAY_ENVIRONMENT.items():
            os.environ.setdefault(key, value)
        logs.mkdir(parents=True, exist_ok=True)
        daemons = None if _is_connected() else _connect(config)
        try:
            return cls(config, logs, daemons)
        except BaseException:
            if daemons is not None:
                _shut_down(daemons)
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

    def count_life(self, name: str) -> int:
        """The number of the life that a worker begins in this place; the first one is 1."""
        self._lives[name] += 1
        return self._lives[name] + 1

    def reserve(self, name: str, count: int, share: Share) -> Any:
        """A placement group with a place per worker; colocated learner and sampler get the same one."""
        if not self.plan.is_colocated or name not in ("learner", "sampler"):
            return self._reserve(name, count, share)
        if self._shared_room is None:
            self._shared_room = self._reserve(name, count, Share(2 * share.num_cpus, 2 * share.num_gpus))
        return self._shared_room

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
        """Kills all actors of the run; a Ray that was started for it ends too."""
        import ray

        for group in self.groups:
            group.kill()  # all of them, before the first is waited for
        for group in list(self.groups):
            group.close()
        if not ray.is_initialized():
            return
        if self._shared_room is not None:
            ray.util.remove_placement_group(self._shared_room)
            self._shared_room = None
        if self.daemons is not None:
            _shut_down(self.daemons)


def _is_connected() -> bool:
    """Whether this process has a Ray already. Asked without importing it: it reads RAY_AUTH_MODE when imported."""
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()


def _connect(config: Config) -> list[psutil.Process]:
    """The daemons that were started: none where an existing cluster is joined."""
    address = config.run.ray_address
    if address is not None:
        _check_answers(address, min(CONNECT_SECONDS, config.run.start_timeout_seconds))
    import ray

    if address is None:
        return _start(time.monotonic() + config.run.start_timeout_seconds)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # Ray raises plain ones as well as its own; the user gets all of them with a next step
        raise _not_connected("joined", f"run.ray_address={address}", error) from error
    return []


def _start(deadline: float) -> list[psutil.Process]:
    """The daemons of a cluster on this machine. Ray gives them 30 s, too little on a busy one: it is asked again."""
    import ray

    before = set(psutil.Process().children())
    while True:
        try:
            ray.init(
                address="local",  # never a cluster that happens to be named in the environment
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                _node_ip_address="127.0.0.1",
            )
            return _children_since(before)
        except Exception as error:  # of daemons that are late Ray raises a plain one
            ray.shutdown()
            _kill(_children_since(before))
            if TOO_LATE not in str(error) or time.monotonic() > deadline:
                raise _not_connected("started", "this machine", error) from error


def _children_since(before: set[psutil.Process]) -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if child not in before]


def _not_connected(verb: str, where: str, error: Exception) -> PlacementError:
    return PlacementError(
        f"Ray could not be {verb}: {first_line(error)}",
        where=where,
        next_step="run `oxrl doctor --deep`, or set run.backend: local",
    )


def _shut_down(daemons: list[psutil.Process]) -> None:
    """Leaves Ray. It asks its daemons one after the other to leave; those that take their time are killed."""
    import ray

    # Log monitor and autoscaler hold nothing; the monitor does not hear SIGTERM, and Ray would wait a second for it.
    _kill([daemon for daemon in daemons if daemon.is_running() and daemon.name() not in ("raylet", "gcs_server")])
    patience = threading.Timer(SHUTDOWN_SECONDS, _kill, [daemons])
    patience.start()
    try:
        ray.shutdown()
    finally:
        patience.cancel()


def _kill(processes: list[psutil.Process]) -> None:
    """Kills processes and whatever is below them."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            below = process.children(recursive=True)
            process.kill()
            for child in below:
                with suppress(psutil.NoSuchProcess):
                    child.kill()


def _check_answers(address: str, seconds: float) -> None:
    """Raises within `seconds` where no cluster answers. Ray's own client waits for minutes, or ends the process.

    A cluster made by `ray start` asks for a token, and a client shows one only where RAY_AUTH_MODE says so: where the
    plain way is refused and this user has a token, that mode is tried and kept.
    """
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + seconds
    reason = ""
    try:
        if port.isdigit():
            socket.create_connection((host, int(port)), timeout=min(5.0, seconds)).close()
        reason = _try_to_join(address, {}, deadline - time.monotonic())
        if reason and "RAY_AUTH_MODE" not in os.environ and _has_token():
            token_mode = {"RAY_AUTH_MODE": "token"}
            if not _try_to_join(address, token_mode, deadline - time.monotonic()):
                os.environ.update(token_mode)
                return
    except subprocess.TimeoutExpired:
        reason = f"no answer within {seconds:g} s"
    except OSError as error:
        reason = f"nobody listens there: {error}"
    if reason:
        raise PlacementError(
            f"no Ray cluster of this version answers at {address}: {reason}",
            where="run.ray_address",
            next_step="start one there (`ray start --head`), correct the address, or leave run.ray_address out; "
            "a cluster of another user asks for its token (RAY_AUTH_MODE=token, RAY_AUTH_TOKEN_PATH)",
        )


def _try_to_join(address: str, environment: dict[str, str], seconds: float) -> str:
    """Why a process of its own cannot join the cluster; nothing where it can."""
    attempt = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')"
    command = [sys.executable, "-c", attempt, address]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=max(seconds, 0.1), check=False
    )
    if done.returncode == 0:
        return ""
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]


def _has_token() -> bool:
    """Whether this user holds a token of a Ray cluster, where Ray looks for it."""
    named = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token"
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or Path(named).is_file()
