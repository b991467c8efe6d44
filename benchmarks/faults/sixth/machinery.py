"""What machines and libraries do to runs, in the libraries' own words."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.faults.define import Fault
from oxrl_core.runs.rundir import RunDir

HANGS_FROM = 6
FAILS_FROM = 7


def before_drawing(act: Callable[[int], None]) -> None:
    """Has `act` called with the version of the weights before each draw."""
    from oxrl_core.rollout.hf_worker import TransformersWorker

    right = TransformersWorker.generate

    def generate(self: TransformersWorker, *arguments: Any, **named: Any) -> list[Any]:
        act(self.version())
        return right(self, *arguments, **named)

    TransformersWorker.generate = generate  # type: ignore[method-assign,assignment]


def node_out_of_memory(_run: Path) -> None:
    """Ray kills the worker of the sampler, for its node has hardly any memory left."""

    def killed(version: int) -> None:
        if version >= FAILS_FROM:
            from ray.exceptions import OutOfMemoryError

            raise OutOfMemoryError(
                "Task was killed due to the node running low on memory.\n"
                "Memory on the node (IP: 10.1.0.17, ID: 6f1b7a0c9d) where the task (actor ID: "
                "9c2e41a7b5d80f6e01000000, name=Host.__init__, pid=20417, memory used=61.87GB) was running was "
                "239.61GB / 251.51GB (0.952684), which exceeds the memory usage threshold of 0.95. Ray killed this "
                "worker (ID: 4be1f6a2c7) because it was the most recently scheduled task; to see more information "
                "about memory usage on this node, use `ray logs raylet.out -ip 10.1.0.17`. Consider provisioning more "
                "memory on this node or reducing task parallelism by requesting more CPUs per task. To adjust the "
                "kill threshold, set the environment variable `RAY_memory_usage_threshold` when starting Ray."
            )

    before_drawing(killed)


def prompt_over_the_length(_run: Path) -> None:
    """One prompt is longer than the engine's longest text."""

    def refused(version: int) -> None:
        if version >= FAILS_FROM:
            raise ValueError(
                "The decoder prompt (length 5951) is longer than the maximum model length of 4096. Make sure that "
                "`max_model_len` is no smaller than the number of text tokens."
            )

    before_drawing(refused)


def no_room_for_the_cache(_run: Path) -> None:
    """Weights and activations of the engine leave nothing for its cache."""
    from oxrl_core.rollout.hf_worker import TransformersWorker

    def refused(self: TransformersWorker, *_arguments: Any, **_named: Any) -> None:
        try:
            raise ValueError(
                "No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing "
                "the engine (this flag also controls CPU memory reservation on the CPU backend, despite its name). "
                "See https://docs.vllm.ai/en/latest/configuration/conserving_memory/ for more details."
            )
        except ValueError as error:
            raise RuntimeError(
                "Engine core initialization failed. See root cause above. Failed core proc(s): {}"
            ) from error

    TransformersWorker.__init__ = refused  # type: ignore[method-assign,assignment]


def batches_do_not_add_up(_run: Path) -> None:
    """Somebody writes batch sizes into the configuration of DeepSpeed that do not belong together."""
    from oxrl_core.engine import policy

    right = policy.deepspeed_config

    def edited(*arguments: Any, **named: Any) -> dict[str, Any]:
        sizes = {"train_batch_size": 32, "train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 1}
        return right(*arguments, **named) | sizes

    policy.deepspeed_config = edited


def licence_not_accepted(_run: Path) -> None:
    """The hub knows the user, and the user has not accepted the model's licence."""
    import httpx
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError

    def refused(hub_id: str, **_named: Any) -> str:
        url = f"https://huggingface.co/api/models/{hub_id}/revision/main"
        raise GatedRepoError(
            f"403 Client Error. (Request ID: Root=1-66f2b1d0-3a9c5e7b1f)\n\nCannot access gated repo for url {url}.\n"
            f"Access to model {hub_id} is restricted and you are not in the authorized list. Visit "
            f"https://huggingface.co/{hub_id} to ask for access.",
            response=httpx.Response(403, request=httpx.Request("GET", url)),
        )

    huggingface_hub.snapshot_download = refused


def node_without_network(_run: Path) -> None:
    """The compute node does not reach the hub, and nobody has fetched the model before."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def refused(_hub_id: str, **_named: Any) -> str:
        raise LocalEntryNotFoundError(
            "An error happened while trying to locate the files on the Hub and we cannot find the appropriate snapshot "
            "folder for the specified revision on the local disk. Please check your internet connection and try again."
        )

    huggingface_hub.snapshot_download = refused


def sync_hangs(_run: Path) -> None:
    """A weight sync waits for a peer that does not come."""
    from oxrl_core.rollout.hf_worker import TransformersWorker

    right = TransformersWorker.load_weights

    def loaded(self: TransformersWorker, weights: Any, version: int) -> None:
        if version >= HANGS_FROM:
            time.sleep(3600)
        right(self, weights, version)

    TransformersWorker.load_weights = loaded  # type: ignore[method-assign,assignment]


def hears_the_terminal(_run: Path) -> None:
    """The driver takes SIGHUP as every program does that was not started with nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def close_terminal(run: RunDir) -> None:
    """The terminal is closed in which the run was started."""
    driver = run.status().driver
    assert driver is not None
    os.kill(driver.pid, signal.SIGHUP)


FAULTS = [
    Fault(  # pain 19, OpenRLHF#1139, verl-agent#95
        "ray_node_out_of_memory",
        "Ray kills a worker because its node runs out of memory",
        {"ray_host_oom", "host_out_of_memory"},
        plant=node_out_of_memory,
    ),
    Fault(  # trl#3433, #3569, open-r1#672, unsloth#2666
        "prompt_over_the_length",
        "at step 8 a prompt is longer than the sampler's engine can read",
        {"vllm_prompt_long", "wrong_request"},
        "dapo",
        [],
        plant=prompt_over_the_length,
    ),
    Fault(  # pain 19: the engine starts beside weights that leave it no memory
        "no_room_for_the_cache",
        "the sampler's engine has no memory left for its cache",
        {"vllm_kv_none", "placement"},
        "dr_grpo",
        [],
        plant=no_room_for_the_cache,
    ),
    Fault(  # pain 14, OpenRLHF#346, DeepSpeed#6914
        "batches_do_not_add_up",
        "the batch sizes for DeepSpeed do not belong together",
        {"ds_batch", "wrong_request"},
        "ppo",
        [],
        plant=batches_do_not_add_up,
    ),
    Fault(  # the licence of a gated model
        "licence_not_accepted",
        "the model is gated, and its licence not accepted",
        {"gated", "wrong_request"},
        "sft",
        ["model.path=meta-llama/Llama-3.2-1B"],
        plant=licence_not_accepted,
    ),
    Fault(  # a compute node without a network
        "node_without_network",
        "the model is not on the machine, and the hub cannot be reached",
        {"hub_down", "wrong_request"},
        "rloo",
        ["model.path=Qwen/Qwen2.5-0.5B"],
        plant=node_without_network,
    ),
    Fault(  # pain 1: trl#7103, #2923
        "sync_hangs",
        "the sixth weight sync never ends",
        {"stalled", "deadline", "weight_sync"},
        "gspo",
        ["run.stall_seconds=10", "run.on_stall=stop", "run.max_restarts=0"],
        supervised=True,
        plant=sync_hangs,
    ),
    Fault(  # torchtune#371, SparK#19, ms-swift#5884: no nohup
        "terminal_closed",
        "the terminal is closed, and the driver gets SIGHUP",
        {"killed"},
        "sft",
        ["train.steps=20000", "run.max_restarts=0"],
        supervised=True,
        plant=hears_the_terminal,
        during=close_terminal,
    ),
]
