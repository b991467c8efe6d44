from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

from oxrl_core.config.schema import Config
from oxrl_core.train.host import free_port, worker_environment

DRIVER = """
import os, sys, time
from pathlib import Path
from oxrl_core.config.schema import Config
from oxrl_core.errors import PlacementError
from oxrl_core.train.cluster import Cluster
from oxrl_core.train.groups import start_group

def config(**run):
    return Config.model_validate({
        "run": {"name": "driver", "start_timeout_seconds": 90, **run},
        "model": {"path": "miniature:chars"},
        "data": {"train": [{"name": "copy3"}]},
        "train": {"num_workers": 2},
    })

class Worker:
    def where(self):
        import ray
        return os.getpid(), ray.get_runtime_context().get_node_id()
"""


def run_driver(text: str, *arguments: str, seconds: float = 150) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", DRIVER + textwrap.dedent(text), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)


def wait_until_gone(pids: list[int], seconds: float = 30) -> list[int]:
    """The processes that are still there after so long."""
    deadline = time.monotonic() + seconds
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    return [pid for pid in pids if psutil.pid_exists(pid)]


def test_a_model_that_needs_no_download_keeps_its_workers_off_the_network() -> None:
    sections = {"run": {"name": "driver"}, "data": {"train": [{"name": "copy3"}]}}
    made = Config.model_validate({**sections, "model": {"path": "miniature:chars"}})
    assert worker_environment(made, 1, on_gpu=False)["HF_HUB_OFFLINE"] == "1"
    fetched = Config.model_validate({**sections, "model": {"path": "some/model"}})
    assert "HF_HUB_OFFLINE" not in worker_environment(fetched, 1, on_gpu=False)


def test_an_address_where_no_cluster_answers_is_told_within_seconds(tmp_path: Path) -> None:
    with socket.socket() as silent, socket.socket() as nobody:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # some other server, which never answers
        nobody.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{server.getsockname()[1]}" for server in (nobody, silent)]
        done = run_driver(
            """
            for address in sys.argv[2:]:
                started = time.monotonic()
                try: Cluster.start(config(ray_address=address, start_timeout_seconds=3), Path(sys.argv[1]))
                except PlacementError as error: print(time.monotonic() - started, str(error).replace("\\n", " "))
            """,
            str(tmp_path),
            *addresses,
        )
    assert done.returncode == 0, done.stderr
    for line, address, limit in zip(done.stdout.splitlines(), addresses, (6, 9), strict=True):
        seconds, _, message = line.partition(" ")
        assert float(seconds) < limit
        assert address in message and "ray start --head" in message


@pytest.mark.engine
def test_actors_of_a_driver_that_is_killed_are_gone(tmp_path: Path) -> None:
    program = DRIVER + (
        "cluster = Cluster.start(config(), Path(sys.argv[1]))\n"
        "group = start_group(Worker, [()], config=config(), cluster=cluster, name='learner')\n"
        "print(*[pid for pid, _ in group.call('where')], flush=True)\n"
        "time.sleep(300)\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert driver.stdout is not None
        (pid,) = [int(pid) for pid in driver.stdout.readline().split()]
        raylet = psutil.Process(pid).ppid()
    finally:
        driver.kill()
        driver.wait()
    assert wait_until_gone([pid, raylet]) == []


@pytest.mark.engine
def test_a_cluster_is_closed_within_seconds_even_where_its_daemons_hang(tmp_path: Path) -> None:
    done = run_driver(
        """
        import psutil, signal
        cluster = Cluster.start(config(), Path(sys.argv[1]))
        for daemon in cluster.daemons: print(daemon.pid, *[child.pid for child in daemon.children(recursive=True)])
        sys.stdout.flush()
        for daemon in cluster.daemons: daemon.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        cluster.close()
        print(time.monotonic() - started)
        """,
        str(tmp_path),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    *pids, seconds = done.stdout.split()
    assert float(seconds) < 10
    assert len(pids) >= 4 and wait_until_gone([int(pid) for pid in pids], seconds=5) == []


@pytest.mark.engine
def test_daemons_that_are_late_are_given_a_second_try_and_leave_nothing(tmp_path: Path) -> None:
    """Ray's own wait is made to end at once, the first time: what it leaves behind is what it leaves after 30 s."""
    done = run_driver(
        """
        import itertools, psutil, ray, time
        from types import SimpleNamespace
        from ray._private import node, services
        answer, clock = services.get_node, itertools.count(step=100)
        late = []
        def get_node(*arguments):
            if not late:
                late.extend(psutil.Process().children())
                raise RuntimeError("not there yet")
            node.time = time
            return answer(*arguments)
        services.get_node = get_node
        node.time = SimpleNamespace(sleep=time.sleep, monotonic=lambda: next(clock), time=time.time)
        cluster = Cluster.start(config(), Path(sys.argv[1]))
        print(len(late), sum(daemon.is_running() and daemon.status() != "zombie" for daemon in late))
        print(len(cluster.daemons), ray.is_initialized())
        cluster.close()
        """,
        str(tmp_path),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    started, left, daemons, is_there = done.stdout.split()
    assert int(started) >= 2 and left == "0" and daemons == started and is_there == "True"


def raylets() -> set[int]:
    """The raylets below this process."""
    return {process.pid for process in psutil.Process().children(recursive=True) if process.name() == "raylet"}


@contextmanager
def ray_node(folder: Path, *words: str) -> Iterator[None]:
    """A node as `ray start` makes it, token and all; ended with whatever it started."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus", "1", *words]
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
    log = folder / f"node-{len(words)}.log"
    with log.open("w") as output:
        node = psutil.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        deadline = time.monotonic() + 90
        while "Ray runtime started" not in log.read_text():
            assert node.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield
    finally:
        below = node.children(recursive=True)
        for process in [node, *below]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs([node, *below], timeout=20)


@pytest.mark.engine
def test_groups_join_a_cluster_of_two_nodes_by_its_address_and_are_spread_over_it() -> None:
    # Ray's sockets need a short path. `ray start` asks every client for a token, and nobody told this one so.
    before = raylets()  # the Ray that other tests share
    with TemporaryDirectory(prefix="ray", dir="/tmp") as name, ExitStack() as nodes:
        folder = Path(name)
        nodes.enter_context(ray_node(folder, "--head", "--port", str(free_port()), "--temp-dir", name))
        address = (folder / "ray_current_cluster").read_text().strip()
        os.environ["RAY_AUTH_MODE"] = "token"
        try:
            nodes.enter_context(ray_node(folder, "--address", address))
        finally:
            del os.environ["RAY_AUTH_MODE"]
        done = run_driver(
            """
            here = config(ray_address=sys.argv[1])
            cluster = Cluster.start(here, Path(sys.argv[2]))
            seats = start_group(Worker, [(), ()], config=here, cluster=cluster, name='learner').call('where')
            print(cluster.resources().cpus, cluster.daemons, len({node for _, node in seats}), flush=True)
            cluster.close()
            """,
            address,
            str(folder / "logs"),
            seconds=200,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        # Two nodes, two ranks: each has a node to itself. The cluster is left, not ended.
        assert done.stdout.splitlines() == ["2.0 [] 2"]
        assert len(raylets() - before) == 2
