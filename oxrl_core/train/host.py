"""What a worker process is: the body of every actor, its environment, its rank and its log."""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oxrl_core.errors import OxrlError, RunFailure

if TYPE_CHECKING:
    from oxrl_core.config.schema import Config

# Ray's own daemons and workers, as far as a run needs them otherwise than Ray does.
RAY_ENVIRONMENT = {
    "RAY_health_check_failure_threshold": "30",  # a busy machine misses heartbeats: Ray would declare its node dead
    "RAY_health_check_timeout_ms": "60000",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # every failure is raised where it is waited for; not told twice
    "RAY_prestart_worker_first_driver": "0",  # they could not become actors, which have variables of their own
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
class Seat:
    """Where a worker sits."""

    pid: int
    node_id: str
    address: str


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
        worker: type | Callable[..., Any],
        args: tuple[Any, ...],
        rank: int,
        size: int,
        meeting: tuple[str, int] | None,
    ) -> None:
        """Makes the worker."""
        if meeting is not None:
            os.environ.update(rank_environment(rank, size, *meeting))
        with named_failures(self.name, "start", self.log):
            self.worker = worker(*args)

    def call(self, method: str, *args: Any) -> Any:
        """What the worker answers."""
        with named_failures(self.name, method, self.log):
            return getattr(self.worker, method)(*args)

    def submit(self, method: str, *args: Any) -> tuple[Any, None]:
        """What the worker answers, and a receipt that fails where the answer does but weighs nothing."""
        return self.call(method, *args), None


def worker_environment(config: Config, threads: int | None, *, on_gpu: bool) -> dict[str, str]:
    """The variables that a worker's libraries read while they are imported."""
    variables = RAY_ENVIRONMENT | WORKER_ENVIRONMENT
    if not on_gpu:
        variables |= CPU_WORKER_ENVIRONMENT
    if threads is not None:
        variables["OMP_NUM_THREADS"] = str(threads)
    if Path(config.model.path).exists() or config.model.path.startswith(("miniature:", "run:")):
        variables["HF_HUB_OFFLINE"] = "1"  # nothing is to be fetched: no waiting for a network that may not be there
    return variables


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
def named_failures(name: str, method: str, log: str = "") -> Iterator[None]:
    """An OxrlError passes as itself; any other becomes a RunFailure that names the worker and its log."""
    try:
        yield
    except OxrlError:
        raise
    except Exception as error:
        traceback.print_exc()
        next_step = f"read the traceback in {log}" if log else "read the traceback above"
        raise RunFailure(
            f"{method} failed: {type(error).__name__}: {first_line(error)}", where=name, next_step=next_step
        ) from (error if not log else None)  # a cause of a foreign class may not survive the way through Ray


def first_line(error: BaseException) -> str:
    """The first line of what an error says, cut to a readable length."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:500]


def reason_of_death(error: BaseException) -> str:
    """The sentence of Ray's report on a dead actor that says why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "exit" in line.lower() or "killed" in line.lower() or "memory" in line.lower()]
    return (telling or lines or [type(error).__name__])[-1]


def free_port() -> int:
    """A TCP port that nobody listens on, on this node."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return listener.getsockname()[1]


def _redirect_output(log: Path) -> Any:
    """The stream of the log file, to which this process's stdout and stderr now go."""
    log.parent.mkdir(parents=True, exist_ok=True)
    stream = log.open("a", buffering=1)
    for descriptor in (1, 2):
        os.dup2(stream.fileno(), descriptor)
    sys.stdout = sys.stderr = stream
    return stream
