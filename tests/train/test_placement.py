from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from oxrl_core.config.schema import Config
from oxrl_core.errors import ConfigError, DeadlineError, OxrlError, PlacementError, RunFailure
from oxrl_core.train.placement import (
    Cluster,
    Resources,
    Share,
    check_placement,
    free_port,
    plan_placement,
    start_group,
    worker_environment,
)

ON_BOTH = pytest.mark.parametrize("backend", ["ray", "local"])


def config_with(
    run: dict[str, Any] | None = None, rollout: dict[str, Any] | None = None, **sections: dict[str, Any]
) -> Config:
    return Config.model_validate(
        {
            "run": {"name": "placed", "call_timeout_seconds": 60, "start_timeout_seconds": 90, **(run or {})},
            "model": {"path": "miniature:chars"},
            "data": {"train": [{"name": "copy3"}]},
            "rollout": rollout or {},
            **sections,
        }
    )


class Worker:
    """A worker with every way of going wrong."""

    def __init__(self, number: int, fault: str = "") -> None:
        if fault == "config":
            raise ConfigError("no such thing", where="model.path", next_step="name another")
        if fault == "sleep":
            time.sleep(60)
        self.number = number

    def times(self, factor: int) -> int:
        return self.number * factor

    def receive(self, value: Any) -> Any:
        return (self.number, value)

    def pid(self) -> int:
        return os.getpid()

    def variable(self, name: str) -> str | None:
        return os.environ.get(name)

    def node(self) -> str:
        import ray

        return ray.get_runtime_context().get_node_id()

    def refuse(self) -> None:
        raise ConfigError("lr is negative", where="train.lr", next_step="make it positive")

    def crash(self) -> None:
        raise ZeroDivisionError("by zero")

    def say(self, text: str) -> None:
        print(text)

    def sleep_if(self, number: int, seconds: float) -> None:
        if number == self.number:
            time.sleep(seconds)

    def die_if(self, number: int) -> None:
        if number == self.number:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(30)


@pytest.fixture(scope="module")
def cluster(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # actors cannot import a test file
    cluster = Cluster.start(config_with(), tmp_path_factory.mktemp("run") / "logs")
    yield cluster
    cluster.close()


@pytest.fixture
def groups(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Starts groups of workers numbered from 1 on Ray or in this process, and closes them."""
    started = []

    def start(backend: str, count: int = 2, fault: str = "", name: str = "worker", **run: Any) -> Any:
        cluster = request.getfixturevalue("cluster") if backend == "ray" else None
        arguments = [(number, fault) for number in range(1, count + 1)]
        group = start_group(Worker, arguments, config=config_with(run), cluster=cluster, name=name)
        started.append(group)
        return group

    yield start
    for group in started:
        group.close()


@pytest.fixture(scope="module", params=["ray", "local"])
def trio(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Three workers that stay for all tests that do them no harm: a group of actors takes seconds to start."""
    cluster = request.getfixturevalue("cluster") if request.param == "ray" else None
    group = start_group(Worker, [(1,), (2,), (3,)], config=config_with(), cluster=cluster, name="trio")
    yield group
    group.close()


def test_two_cores_hold_two_ranks_and_two_samplers_with_half_a_core_each() -> None:
    config = config_with(train={"num_workers": 2}, rollout={"num_workers": 2})
    plan = plan_placement(config, Resources(cpus=2))
    assert (plan.learner, plan.sampler, plan.threads) == (Share(0.5), Share(0.5), 1)


def test_spare_cores_become_threads() -> None:
    plan = plan_placement(config_with(), Resources(cpus=9))
    assert (plan.learner.num_cpus, plan.threads) == (1.0, 4)


def test_a_supervised_run_places_no_sampler() -> None:
    config = config_with(algorithm={"name": "sft"}, train={"num_workers": 2})
    assert plan_placement(config, Resources(cpus=16, gpus_by_node=(2,))).learner == Share(1.0, 1.0)


def test_on_gpus_every_worker_has_its_own_unless_colocated() -> None:
    gpus = Resources(cpus=16, gpus_by_node=(4,))
    apart = config_with(train={"num_workers": 2}, rollout={"num_workers": 1, "tensor_parallel": 2})
    assert plan_placement(apart, gpus).sampler.num_gpus == 2
    together = config_with(train={"num_workers": 4}, rollout={"num_workers": 4, "colocate": True})
    plan = plan_placement(together, gpus)
    assert plan.is_colocated and plan.learner.num_gpus + plan.sampler.num_gpus == 1


@pytest.mark.parametrize(
    ("sections", "resources", "words"),
    [
        ({"rollout": {"tensor_parallel": 2}}, Resources(cpus=4), ["rollout.tensor_parallel", "0 GPUs", "4 CPU"]),
        ({"deepspeed": {"offload_optimizer": True}}, Resources(cpus=4), ["offload_optimizer", "0 GPUs"]),
        ({"train": {"num_workers": 4}}, Resources(8, (2.0, 2.0)), ["5 GPUs", "4 for the learner", "there are 4"]),
        ({"rollout": {"tensor_parallel": 2}}, Resources(8, (1.0,) * 4), ["2 on one node", "4 node"]),
        ({"rollout": {"colocate": True, "num_workers": 2}}, Resources(8, (2.0,)), ["1 learners", "2 samplers"]),
        ({"train": {"num_workers": 99}}, Resources(cpus=2), ["100 workers", "2 CPU cores"]),
    ],
)
def test_what_cannot_be_placed_names_what_is_asked_and_what_there_is(
    sections: dict[str, Any], resources: Resources, words: list[str]
) -> None:
    with pytest.raises(PlacementError) as caught:
        check_placement(config_with(**sections), resources)
    assert [word for word in words if word not in str(caught.value)] == []
    assert caught.value.next_step


def test_a_model_that_needs_no_download_keeps_its_workers_off_the_network() -> None:
    assert worker_environment(config_with(), 1, on_gpu=False)["HF_HUB_OFFLINE"] == "1"
    hub = config_with(model={"path": "some/model"})
    assert "HF_HUB_OFFLINE" not in worker_environment(hub, 1, on_gpu=False)


def test_answers_come_in_the_order_of_the_workers(trio: Any) -> None:
    assert trio.size == 3
    assert trio.call("times", 10) == [10, 20, 30]
    assert trio.call_each("times", [(3,), (2,), (1,)]) == [3, 4, 3]


def test_a_handle_arrives_at_every_worker_as_the_value(trio: Any) -> None:
    handle = trio.submit("times", 7, worker=1)
    assert trio.call("receive", handle) == [(1, 14), (2, 14), (3, 14)]
    assert trio.fetch(handle) == 14


def test_an_oxrl_error_arrives_as_itself(trio: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        trio.call("refuse")
    assert type(caught.value) is ConfigError
    assert caught.value.as_dict() == {
        "code": "ConfigError",
        "what": "lr is negative",
        "where": "train.lr",
        "next": "make it positive",
    }


def test_any_other_error_names_worker_method_and_cause(trio: Any) -> None:
    with pytest.raises(RunFailure, match=r"trio-\d: crash failed: ZeroDivisionError: by zero"):
        trio.call("crash")


@ON_BOTH
def test_an_error_at_the_start_arrives_as_itself(groups: Any, backend: str) -> None:
    with pytest.raises(ConfigError, match="no such thing"):
        groups(backend, fault="config").call("pid")


class Rank:
    """A worker that remembers what its environment said when it was made."""

    def __init__(self) -> None:
        self.own = [os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")]

    def told(self) -> list[str | None]:
        return self.own


@pytest.mark.parametrize(("backend", "size"), [("ray", 2), ("local", 1)])
def test_the_learner_is_told_its_ranks(request: pytest.FixtureRequest, backend: str, size: int) -> None:
    cluster = request.getfixturevalue("cluster") if backend == "ray" else None
    group = start_group(Rank, [()] * size, config=config_with(), cluster=cluster, name="learner")
    told = group.call("told")
    group.close()
    assert [rank[:3] for rank in told] == [[str(i), str(size), "127.0.0.1"] for i in range(size)]
    assert len({rank[3] for rank in told}) == 1
    assert "RANK" not in os.environ  # a later run in this process must not look like one of torchrun


def test_other_groups_are_told_no_rank(trio: Any) -> None:
    assert trio.call("variable", "RANK") == [None] * 3


def test_one_process_refuses_more_than_one_rank() -> None:
    with pytest.raises(PlacementError, match="asked are 2"):
        start_group(Rank, [(), ()], config=config_with(), cluster=None, name="learner")


@pytest.mark.engine
def test_a_worker_that_hangs_is_named_within_the_deadline_and_its_log_shows_where(
    groups: Any, cluster: Cluster
) -> None:
    group = groups("ray", 2, name="sleeper", call_timeout_seconds=2)
    group.call("pid")
    started = time.monotonic()
    with pytest.raises(DeadlineError) as caught:
        group.call("sleep_if", 2, 60)
    assert time.monotonic() - started < 5
    assert "sleep_if" in caught.value.what and caught.value.where == "sleeper-1"
    time.sleep(0.5)
    assert "sleep_if" in (cluster.logs / "sleeper-1.log").read_text()


@pytest.mark.engine
def test_a_start_that_hangs_meets_its_own_deadline(groups: Any) -> None:
    group = groups("ray", 1, fault="sleep", start_timeout_seconds=15)
    with pytest.raises(DeadlineError, match=r"start was not answered within 15 s(?s:.*)run\.start_timeout_seconds"):
        group.call("pid")


@pytest.mark.engine
def test_a_worker_that_is_killed_ends_the_call_at_once_and_is_named(groups: Any) -> None:
    group = groups("ray", 2, name="victim")
    group.call("pid")
    started = time.monotonic()
    with pytest.raises(RunFailure) as caught:
        group.call("die_if", 2)  # the other one sleeps on, as a rank in a collective would
    assert time.monotonic() - started < 20
    assert caught.value.where == "victim-1" and "victim-1.log" in caught.value.next_step
    assert "died during die_if" in caught.value.what


@pytest.mark.engine
def test_a_failure_behind_a_handle_is_told_as_that_of_its_worker(groups: Any) -> None:
    giver, taker = groups("ray", 2, name="giver"), groups("ray", 1, name="taker")
    with pytest.raises(RunFailure) as caught:
        taker.call("receive", giver.submit("crash", worker=1))
    assert caught.value.where == "giver-1"
    with pytest.raises(RunFailure) as caught:
        taker.call("receive", giver.submit("die_if", 1, worker=0))
    assert caught.value.where == "giver-0" and "died" in caught.value.what


@pytest.mark.engine
def test_a_failed_rank_ends_the_wait_for_the_handle_of_another(groups: Any) -> None:
    giver, taker = groups("ray", 2, name="rank"), groups("ray", 1)
    taker.call("pid")
    handle = giver.submit("sleep_if", 1, 30, worker=0)
    giver.submit("refuse", worker=1)
    started = time.monotonic()
    with pytest.raises(ConfigError):
        taker.call("receive", handle)
    assert time.monotonic() - started < 20


@pytest.mark.engine
def test_output_goes_to_the_log_of_the_run_and_close_leaves_no_process(groups: Any, cluster: Cluster) -> None:
    group = groups("ray", 2, name="speaker")
    group.call("say", "hello from inside")
    pids = group.call("pid")
    assert len(set(pids)) == 2 and os.getpid() not in pids
    group.close()
    assert [pid for pid in pids if psutil.pid_exists(pid)] == []
    assert "hello from inside" in (cluster.logs / "speaker-1.log").read_text()
    assert groups("ray", 2, name="speaker").call("times", 1) == [1, 2]


@pytest.mark.engine
def test_a_group_that_finds_no_room_says_so_within_seconds(cluster: Cluster) -> None:
    config = config_with({"start_timeout_seconds": 3})
    small = Cluster(config, cluster.logs, is_own=False)
    started = time.monotonic()
    with pytest.raises(PlacementError, match=r"3 x wide with 5 CPU.*free are"):
        start_group(Worker, [(1,)] * 3, config=config, cluster=small, name="wide", num_cpus=5)
    assert time.monotonic() - started < 8


def run_driver(text: str, *arguments: str, seconds: float = 150) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text), *arguments],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


DRIVER = """
import os, sys, time
from pathlib import Path
from oxrl_core.config.schema import Config
from oxrl_core.train.placement import Cluster, start_group, free_port

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


@pytest.mark.parametrize("listens", [False, True])
def test_an_address_where_no_cluster_answers_is_told_within_seconds(listens: bool, tmp_path: Path) -> None:
    port = free_port()
    with socket.socket() as listener:
        if listens:  # some other server, which never answers
            listener.bind(("127.0.0.1", port))
            listener.listen()
        program = DRIVER + (
            "from oxrl_core.errors import PlacementError\n"
            "started = time.monotonic()\n"
            "try: Cluster.start(config(ray_address=sys.argv[1], start_timeout_seconds=8), Path(sys.argv[2]))\n"
            "except PlacementError as error: print(round(time.monotonic() - started), error)\n"
        )
        done = run_driver(program, f"127.0.0.1:{port}", str(tmp_path))
    assert done.returncode == 0, done.stderr
    seconds, _, message = done.stdout.partition(" ")
    assert int(seconds) <= (12 if listens else 6)
    assert f"127.0.0.1:{port}" in message and "ray start --head" in message


@pytest.mark.engine
def test_actors_of_a_driver_that_is_killed_are_gone(tmp_path: Path) -> None:
    program = DRIVER + (
        "cluster = Cluster.start(config(), Path(sys.argv[1]))\n"
        "group = start_group(Worker, [(), ()], config=config(), cluster=cluster, name='learner')\n"
        "print(*[pid for pid, _ in group.call('where')], flush=True)\n"
        "time.sleep(300)\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert driver.stdout is not None
        pids = [int(pid) for pid in driver.stdout.readline().split()]
        assert len(pids) == 2 and all(psutil.pid_exists(pid) for pid in pids)
        raylet = psutil.Process(pids[0]).ppid()
    finally:
        driver.kill()
        driver.wait()
    deadline = time.monotonic() + 30
    while any(psutil.pid_exists(pid) for pid in [*pids, raylet]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [pid for pid in [*pids, raylet] if psutil.pid_exists(pid)] == []


@pytest.mark.engine
def test_groups_join_a_cluster_of_several_nodes_by_its_address_and_are_spread_over_it(tmp_path: Path) -> None:
    program = DRIVER + (
        "from ray.cluster_utils import Cluster as Nodes\n"
        "nodes = Nodes(initialize_head=True, head_node_args={'num_cpus': 1, 'include_dashboard': False})\n"
        "for _ in range(2): nodes.add_node(num_cpus=1)\n"
        "here = config(ray_address=nodes.address)\n"
        "cluster = Cluster.start(here, Path(sys.argv[1]))\n"
        "print(cluster.resources().cpus, cluster.is_own)\n"
        "learner = start_group(Worker, [(), ()], config=here, cluster=cluster, name='learner')\n"
        "sampler = start_group(Worker, [()], config=here, cluster=cluster, name='sampler')\n"
        "seats = learner.call('where') + sampler.call('where')\n"
        "print(len({node for _, node in seats}), len({pid for pid, _ in seats}))\n"
        "cluster.close(); nodes.shutdown()\n"
    )
    done = run_driver(program, str(tmp_path), seconds=200)
    assert done.returncode == 0, done.stderr[-3000:]
    # Three cores on three nodes, three workers: each has a node to itself.
    assert done.stdout.splitlines() == ["3.0 True", "3 3"]


def test_errors_survive_pickling() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(PlacementError("what", "where", "next")))  # noqa: S301 - our own bytes
    assert isinstance(error, OxrlError) and error.as_dict()["next"] == "next"
