"""Machines, libraries and neighbours."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.faults.define import Fault
from benchmarks.faults.patches import before_updates
from oxrl_core.runs.rundir import RunDir

LOGIN_NODE_SECONDS = 20  # of the processor that a process may use
ASSERTION = (
    "/pytorch/aten/src/ATen/native/cuda/Indexing.cu:1422: indexSelectLargeIndex: block: [63,0,0], thread: [{},0,0] "
    "Assertion `srcIndex < srcSelectDimSize` failed."
)
OF_CUDA = (
    "CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be "
    "incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\nCompile with `TORCH_USE_CUDA_DSA` to enable "
    "device-side assertions.\n"
)
DEAD_ACTOR = (
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
    "unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was "
    "killed by the OOM killer due to high memory usage, (2) ray stop --force was called, or (3) the worker crashed "
    "unexpectedly due to SIGSEGV or another unexpected error."
)


def _at_step(step: int, happen: Callable[[], None]) -> None:
    """Has it happen before the update of that step."""

    def look(engine: Any) -> None:
        if engine.num_steps >= step:
            happen()

    before_updates(look)


def one_row_too_long(_run: Path) -> None:
    """The logits of the longest row of the data do not fit."""
    import torch

    def widen() -> None:
        torch.empty(4, 131_072, 151_936 * 640)

    _at_step(9, widen)


def bad_memory_cell(_run: Path) -> None:
    """A cell of the GPU's memory is broken."""

    def read() -> None:
        raise RuntimeError(f"CUDA error: uncorrectable ECC error encountered\n{OF_CUDA}")

    _at_step(7, read)


def token_outside(_run: Path) -> None:
    """A token has no row in the embeddings; a kernel says so."""

    def look_up() -> None:
        for thread in range(3):
            print(ASSERTION.format(thread), file=sys.stderr, flush=True)
        raise RuntimeError(f"CUDA error: device-side assert triggered\n{OF_CUDA}")

    _at_step(3, look_up)


def reference_is_sharded(_run: Path) -> None:
    """The embeddings of the reference lie on other ranks, and nobody gathers them."""
    import torch

    from oxrl_core.engine.policy import PolicyEngine

    def embed(self: PolicyEngine, batch: Any, temperature: float) -> Any:
        return torch.nn.functional.embedding(batch.input_ids, torch.empty(0))

    PolicyEngine.reference_logprobs = embed  # type: ignore[method-assign]


def actor_is_gone(_run: Path) -> None:
    """The process of the sampler has vanished."""
    from ray.core.generated.common_pb2 import ActorDiedErrorContext
    from ray.exceptions import ActorDiedError

    from oxrl_core.rollout.hf_worker import TransformersWorker

    right = TransformersWorker.generate

    def generate(self: Any, *arguments: Any) -> Any:
        if self._version >= 6:
            raise ActorDiedError(
                ActorDiedErrorContext(
                    error_message=DEAD_ACTOR,
                    actor_id=bytes(range(1, 17)),
                    class_name="Host",
                    pid=23186,
                    name="sampler-0",
                    node_ip_address="10.2.4.26",
                )
            )
        return right(self, *arguments)

    TransformersWorker.generate = generate  # type: ignore[method-assign]


def adapter_is_too_large(_run: Path) -> None:
    """The sampler's engine was started for adapters of rank 16."""
    from oxrl_core.rollout.hf_worker import TransformersWorker

    def load(self: Any, weights: Any, version: int) -> None:
        raise ValueError("LoRA rank 64 is greater than max_lora_rank 16.")

    TransformersWorker.load_weights = load  # type: ignore[method-assign]


def tied_at_export(_run: Path) -> None:
    """The head is the embeddings, and safetensors will not write one tensor under two names."""
    import torch
    from safetensors.torch import save_file

    from oxrl_core.engine import policy

    def export(_engine: Any, folder: Path, _card: str = "") -> None:
        weight = torch.zeros(19, 128)
        save_file({"lm_head.weight": weight, "model.embed_tokens.weight": weight}, folder.with_suffix(".safetensors"))

    policy.export_model = export


def old_value_head(run: Path) -> None:
    """The critic of an earlier project is a pickle with the arguments of its training in it."""
    import argparse

    import torch

    from oxrl_core.engine.policy import PolicyEngine

    pickle = run / "critic.pt"
    torch.save({"args": argparse.Namespace(lr=1e-5), "weight": torch.zeros(128)}, pickle)
    build = PolicyEngine.__init__

    def built(self: PolicyEngine, *arguments: Any, **named: Any) -> None:
        build(self, *arguments, **named)
        if self.head == "value":
            torch.load(pickle)

    PolicyEngine.__init__ = built  # type: ignore[method-assign]


def too_many_requests(_run: Path) -> None:
    """The hub has had enough of this address."""
    import httpx2
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    url = "https://huggingface.co/api/models/Qwen/Qwen2.5-0.5B/revision/main"

    def refuse(*_arguments: Any, **_named: Any) -> str:
        answer = httpx2.Response(429, request=httpx2.Request("GET", url))
        text = f"429 Client Error: Too Many Requests for url: {url}\n\nWe had to rate limit your IP."
        raise HfHubHTTPError(
            f"{text}\n\nWe had to rate limit your IP. To continue using our service, log in.", response=answer
        )

    huggingface_hub.snapshot_download = refuse


def seconds_are_counted(_run: Path) -> None:
    """A login node lets no process use the processor for long."""
    import resource

    used = int(time.process_time()) + LOGIN_NODE_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (used, used))


def suspend(run: RunDir) -> None:
    """The scheduler suspends the run for another one of higher priority."""
    driver = run.status().driver
    assert driver is not None
    os.kill(driver.pid, signal.SIGSTOP)


def record_on_a_slow_disk(_run: Path) -> None:
    """From step 14 on the network disk takes more than a second for a file."""
    from oxrl_core.rollout.recorder import Recorder

    write = Recorder._write

    def written(self: Recorder, record: Any) -> None:
        if record.step >= 14:
            time.sleep(1.5)
        write(self, record)

    Recorder._write = written  # type: ignore[method-assign]


FAULTS = [
    Fault(  # pain 4: one long row at step 900
        "one_row_too_long",
        "the logits of one step are larger than the memory",
        {"host_out_of_memory"},
        "sgrpo",
        [],
        plant=one_row_too_long,
    ),
    Fault("bad_memory_cell", "the memory of a GPU is broken", {"ecc"}, "gspo", [], plant=bad_memory_cell),  # verl#407
    Fault(  # transformers#1848, trl#2996
        "token_outside",
        "a token has no row in the embeddings, and a kernel asserts it has",
        {"device_assert"},
        "dapo",
        [],
        plant=token_outside,
    ),
    Fault(  # trl#600, trl#361
        "reference_is_sharded",
        "the reference is read while its weights are sharded",
        {"ds_2d"},
        "ppo",
        [],
        plant=reference_is_sharded,
    ),
    Fault(  # verl#275, verl#5659
        "actor_is_gone",
        "Ray says that the process of an actor has died, and not why",
        {"ray_sigkill"},
        "sgrpo",
        [],
        plant=actor_is_gone,
    ),
    Fault(  # unsloth#2097, ms-swift#4221
        "adapter_is_too_large",
        "the sampler's engine takes adapters of rank 16, and they have 64",
        {"vllm_lora_rank"},
        "sgrpo",
        ["model.lora.enabled=true", "model.lora.rank=64"],
        plant=adapter_is_too_large,
    ),
    Fault(  # trl#5150, unsloth#1105
        "tied_at_export",
        "the head and the embeddings are one tensor, and cannot be written",
        {"tied"},
        "rm",
        ["train.steps=30"],
        plant=tied_at_export,
    ),
    Fault(  # pain 15: torch 2.6 loads no pickles
        "old_value_head",
        "the critic is a pickle that torch refuses to load",
        {"weights_only"},
        "ppo",
        [],
        plant=old_value_head,
    ),
    Fault(  # pain 15: the limit of the hub per address
        "too_many_requests",
        "the hub refuses further requests",
        {"rate_limit"},
        "sgrpo",
        ["model.path=Qwen/Qwen2.5-0.5B"],
        plant=too_many_requests,
    ),
    Fault(  # pain 19
        "seconds_are_counted",
        "the login node kills what has used the processor for too long",
        {"killed"},
        "sgrpo",
        ["train.steps=20000", "run.max_restarts=0"],
        plant=seconds_are_counted,
        supervised=True,
    ),
    Fault(  # pain 20: a hang without a log
        "suspended",
        "the driver is suspended and never goes on",
        {"stalled"},
        "rloo",
        ["train.steps=20000", "run.stall_seconds=10", "run.on_stall=stop", "run.max_restarts=0"],
        supervised=True,
        during=suspend,
    ),
    Fault(  # pain 20
        "record_on_a_slow_disk",
        "from step 14 on every step waits for the disk that takes the rollouts",
        {"slow_step"},
        "sgrpo",
        ["train.steps=30"],
        plant=record_on_a_slow_disk,
    ),
]
