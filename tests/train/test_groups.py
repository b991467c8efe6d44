from __future__ import annotations

import os
import pickle
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psutil
import pytest

from oxrl_core.config.schema import Config
from oxrl_core.errors import ConfigError, DeadlineError, OxrlError, PlacementError, RunFailure, WorkerDied
from oxrl_core.train.cluster import Cluster
from oxrl_core.train.groups import start_group
from oxrl_core.train.placement import Share

CONFIG = Config.model_validate(
    {
        "run": {"name": "grouped", "call_timeout_seconds": 60, "start_timeout_seconds": 90},
        "model": {"path": "miniature:chars"},
        "data": {"train": [{"name": "copy3"}]},
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
        time.sleep(8)  # a rank in a collective would wait for the dead one


@pytest.fixture(scope="module")
def cluster(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # actors cannot import a test file
    cluster = Cluster.start(CONFIG, tmp_path_factory.mktemp("run") / "logs")
    yield cluster
    cluster.close()


@pytest.fixture(scope="module")
def trio_on_ray(cluster: Cluster) -> Any:
    """Three workers that stay for all tests that do them no lasting harm: a group of actors takes seconds to start."""
    return start_group(Worker, [(1,), (2,), (3,)], config=CONFIG, cluster=cluster, name="trio")


@pytest.fixture(params=["ray", "local"])
def trio(request: pytest.FixtureRequest) -> Any:
    """The same three on Ray and in this process."""
    if request.param == "ray":
        return request.getfixturevalue("trio_on_ray")
    return start_group(Worker, [(1,), (2,), (3,)], config=CONFIG, cluster=None, name="trio")


def test_answers_come_in_the_order_of_the_workers(trio: Any) -> None:
    assert trio.size == 3
    assert trio.call("times", 10) == [10, 20, 30]
    assert trio.call_each("times", [(3,), (2,), (1,)]) == [3, 4, 3]


def test_a_handle_arrives_at_every_worker_as_the_value(trio: Any) -> None:
    handle = trio.submit("times", 7, worker=1)
    assert trio.call("receive", handle) == [(1, 14), (2, 14), (3, 14)]


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


@pytest.mark.parametrize("backend", ["ray", "local"])
def test_an_error_at_the_start_arrives_as_itself(request: pytest.FixtureRequest, backend: str) -> None:
    cluster = request.getfixturevalue("cluster") if backend == "ray" else None
    with pytest.raises(ConfigError, match="no such thing"):
        start_group(Worker, [(1, "config")], config=CONFIG, cluster=cluster, name="worker").call("pid")


class Rank:
    """A worker that remembers what its environment said when it was made."""

    def __init__(self) -> None:
        self.own = [os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")]

    def told(self) -> list[str | None]:
        return self.own


@pytest.mark.parametrize(("backend", "size"), [("ray", 2), ("local", 1)])
def test_the_learner_is_told_its_ranks(request: pytest.FixtureRequest, backend: str, size: int) -> None:
    cluster = request.getfixturevalue("cluster") if backend == "ray" else None
    group = start_group(Rank, [()] * size, config=CONFIG, cluster=cluster, name="learner")
    told = group.call("told")
    group.close()
    assert [rank[:3] for rank in told] == [[str(i), str(size), "127.0.0.1"] for i in range(size)]
    assert len({rank[3] for rank in told}) == 1
    assert "RANK" not in os.environ  # a later run in this process must not look like one of torchrun


def test_other_groups_are_told_no_rank(trio: Any) -> None:
    assert trio.call("variable", "RANK") == [None] * 3


def test_one_process_refuses_more_than_one_rank() -> None:
    with pytest.raises(PlacementError, match="asked are 2"):
        start_group(Rank, [(), ()], config=CONFIG, cluster=None, name="learner")


@pytest.mark.engine
def test_a_worker_that_hangs_is_named_within_the_deadline_and_its_log_shows_where(
    trio_on_ray: Any, cluster: Cluster
) -> None:
    trio_on_ray.call("pid")
    hasty = replace(trio_on_ray, call_seconds=1.5)
    started = time.monotonic()
    with pytest.raises(DeadlineError) as caught:
        hasty.call("sleep_if", 2, 6)
    assert time.monotonic() - started < 5
    assert "sleep_if" in caught.value.what and caught.value.where == "trio-1"
    time.sleep(0.5)
    assert "sleep_if" in (cluster.logs / "trio-1.log").read_text()


@pytest.mark.engine
def test_a_start_that_hangs_meets_its_own_deadline(cluster: Cluster) -> None:
    group: Any = start_group(Worker, [(1, "sleep")], config=CONFIG, cluster=cluster, name="late")
    log, deadline = cluster.logs / "late-0.log", time.monotonic() + 60
    while not log.exists() and time.monotonic() < deadline:  # the process is there; its worker is not
        time.sleep(0.05)
    group.start_seconds = time.monotonic() - group.started + 2
    with pytest.raises(DeadlineError, match=r"start was not answered within (?s:.*)run\.start_timeout_seconds"):
        group.call("pid")
    group.close()


@pytest.mark.engine
def test_a_failure_behind_a_handle_is_told_as_that_of_its_worker(trio_on_ray: Any, cluster: Cluster) -> None:
    pair = start_group(Worker, [(1,), (2,)], config=CONFIG, cluster=cluster, name="pair")
    with pytest.raises(RunFailure) as caught:
        trio_on_ray.call("receive", pair.submit("crash", worker=1))
    assert caught.value.where == "pair-1"

    # A rank that fails ends the wait for the handle of another, which hangs in a collective.
    handle = pair.submit("sleep_if", 1, 5, worker=0)
    pair.submit("refuse", worker=1)
    started = time.monotonic()
    with pytest.raises(ConfigError):
        pair.call("receive", handle)
    assert time.monotonic() - started < 4

    with pytest.raises(RunFailure) as caught:
        trio_on_ray.call("receive", pair.submit("die_if", 2, worker=1))
    assert caught.value.where == "pair-1" and "died" in caught.value.what
    pair.close()


@pytest.mark.engine
def test_a_worker_that_is_killed_ends_the_call_at_once_and_is_named(cluster: Cluster) -> None:
    group = start_group(Worker, [(1,), (2,)], config=CONFIG, cluster=cluster, name="victim")
    group.call("pid")
    started = time.monotonic()
    with pytest.raises(RunFailure) as caught:
        group.call("die_if", 2)
    assert time.monotonic() - started < 7  # the other one waits for 8 s
    assert caught.value.where == "victim-1" and "victim-1.log" in caught.value.next_step
    assert "died during die_if" in caught.value.what
    group.close()


@pytest.mark.engine
def test_output_goes_to_the_log_of_the_run_and_close_leaves_no_process(cluster: Cluster) -> None:
    group = start_group(Worker, [(1,)], config=CONFIG, cluster=cluster, name="speaker")
    group.call("say", "hello from inside")
    (pid,) = group.call("pid")
    assert pid != os.getpid()
    started = time.monotonic()
    group.close()
    assert not psutil.pid_exists(pid) and time.monotonic() - started < 5
    assert "hello from inside" in (cluster.logs / "speaker-0.log").read_text()
    again = start_group(Worker, [(1,)], config=CONFIG, cluster=cluster, name="speaker")
    assert again.call("times", 1) == [1]
    again.close()


@pytest.mark.engine
def test_a_group_that_finds_no_room_says_so_within_seconds(cluster: Cluster) -> None:
    hasty = CONFIG.model_copy(update={"run": CONFIG.run.model_copy(update={"start_timeout_seconds": 2})})
    small = Cluster(hasty, cluster.logs)
    started = time.monotonic()
    with pytest.raises(PlacementError, match=r"3 x wide with 5 CPU.*free are"):
        start_group(Worker, [(1,)] * 3, config=hasty, cluster=small, name="wide", share=Share(5))
    assert time.monotonic() - started < 8


def test_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(PlacementError("what", "where", "next")))  # noqa: S301 - our own bytes
    assert isinstance(error, OxrlError) and error.as_dict()["next"] == "next"


class Neighbour:
    """A rank that fails when its neighbour dies, as a collective does."""

    def __init__(self, number: int) -> None:
        self.number = number

    def exchange(self) -> None:
        if self.number == 1:
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGKILL)
        raise RuntimeError("Connection closed by peer [127.0.0.1]:1234")


def test_a_rank_that_fails_because_another_died_is_not_blamed(cluster: Cluster) -> None:
    group = start_group(Neighbour, [(0,), (1,)], config=CONFIG, cluster=cluster, name="learner")
    began = time.monotonic()
    with pytest.raises(WorkerDied) as caught:
        group.call("exchange")
    assert time.monotonic() - began < 30  # two starts of a process on a busy machine, and less than 10 s beside
    assert caught.value.where.endswith("-1") and f"{caught.value.where}.log" in caught.value.next_step
    group.close()
