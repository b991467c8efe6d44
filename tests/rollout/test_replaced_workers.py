"""Sampler workers on Ray that are killed: another one takes the place, and what is drawn does not change by a bit."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oxrl_core.config.schema import Config
from oxrl_core.errors import WorkerDied
from oxrl_core.models.load import resolve_model
from oxrl_core.rollout.hf_worker import TransformersWorker
from oxrl_core.rollout.sampler import Sampler
from oxrl_core.train.cluster import Cluster
from oxrl_core.train.groups import start_group
from oxrl_core.types import Prompt

pytestmark = pytest.mark.engine
CONFIG = Config.model_validate(
    {
        "run": {"name": "replaced", "call_timeout_seconds": 120, "start_timeout_seconds": 120},
        "model": {"path": "miniature:chars"},
        "data": {"train": [{"name": "copy3"}]},
        "rollout": {"num_workers": 2, "max_completion_tokens": 24, "stop_at_eos": False, "retries": 2},
    }
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return resolve_model("miniature:chars", run_folder=folder, home=folder, seed=3)


@pytest.fixture(scope="module")
def cluster(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster.start(CONFIG, tmp_path_factory.mktemp("run") / "logs")
    yield cluster
    cluster.close()


PROMPTS = [Prompt(id=f"p{index}", token_ids=list(range(5, 7 + index)), text="") for index in range(4)]


def draw(sampler: Sampler) -> list[Any]:
    return sampler.generate(PROMPTS, group_size=4, temperature=1.0, max_tokens=24, step=7)


def other_weights(model: Path) -> dict[str, Any]:
    """Not those of the folder, so that a worker which was not given them would draw something else."""
    from safetensors.torch import load_file

    (file,) = model.glob("*.safetensors")
    return {name: tensor * 1.25 for name, tensor in load_file(file).items()}


def test_killed_workers_are_replaced_and_every_token_and_logprob_stays(cluster: Cluster, model: Path) -> None:
    import ray

    events: list[tuple[str, str, str]] = []
    group = start_group(TransformersWorker, [(CONFIG, model)] * 2, config=CONFIG, cluster=cluster, name="sampler")
    sampler = Sampler(group, CONFIG, say=lambda *event: events.append(event))
    sampler.ready()
    sampler.load_weights(ray.put(other_weights(model)), 5)
    undisturbed = draw(sampler)
    pids = [group.here[name].pid for name in group.names]

    os.kill(pids[1], signal.SIGKILL)  # between two draws
    assert draw(sampler) == undisturbed
    assert [event[1] for event in events] == ["worker_replaced"]
    assert "sampler-1" in events[0][2] and group.names[1] == "sampler-1.life-2"

    # While it draws: the moment is whenever the kernel delivers it, before, within or after its share.
    killer = threading.Timer(0.05, os.kill, (pids[0], signal.SIGKILL))
    killer.start()
    assert draw(sampler) == undisturbed
    killer.join()
    assert draw(sampler) == undisturbed
    assert len(events) == 2 and group.names[0] == "sampler-0.life-2"

    os.kill(group.here[group.names[1]].pid, signal.SIGKILL)  # one more than rollout.retries
    began = time.monotonic()
    with pytest.raises(WorkerDied, match=r"sampler-1\.life-2 died") as caught:
        draw(sampler)
    assert time.monotonic() - began < 10
    assert caught.value.where == "sampler-1.life-2" and "sampler-1.life-2.log" in caught.value.next_step
    sampler.close()
