"""Runs that are ended by their machine, their files or their libraries, and models that are not written whole."""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.faults.define import Fault
from benchmarks.faults.fourth_plants import set_in
from benchmarks.faults.patches import after_building, before_updates

held: list[Any] = []


def files_left_open(_run: Path) -> None:
    """Every step opens forty files; they are closed when an error ends the loop, and not before."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))

    def leave_open(_engine: Any) -> None:
        try:
            held.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(40))
        except OSError:
            for file in held:
                os.close(file)
            raise

    before_updates(leave_open)


def port_is_taken(_run: Path) -> None:
    """The rendezvous of the ranks wants a port at which another run listens."""
    taken = socket.create_server(("127.0.0.1", 0))
    held.append(taken)

    def rendezvous(_engine: Any) -> None:
        import torch.distributed as dist

        dist.TCPStore("127.0.0.1", taken.getsockname()[1], is_master=True)

    after_building(rendezvous)


def teacher_of_next_year(run: Path) -> None:
    """The teacher is of an architecture that the installed transformers does not know."""
    import json

    from oxrl_core.models.miniature import make_miniature

    folder = make_miniature("chars", run / "teacher", 1)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "qwen9", "architectures": ["Qwen9ForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    set_in(run, "algorithm.teacher", str(folder))


def aborts(_run: Path) -> None:
    """A C++ library cannot allocate, throws, and nobody catches it."""

    def abort(engine: Any) -> None:
        if engine.num_steps >= 6:
            sys.stderr.write(
                "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n"
            )
            sys.stderr.flush()
            os.abort()

    before_updates(abort)


def storage_hangs(_run: Path) -> None:
    """The network file system does not answer any more when the second checkpoint is to be written."""
    from oxrl_core.engine.checkpoint import CheckpointStore

    right = CheckpointStore.begin

    def hang(self: CheckpointStore, *arguments: Any, **named: Any) -> Any:
        held.append(self)
        if len(held) > 1:
            time.sleep(3600)
        return right(self, *arguments, **named)

    CheckpointStore.begin = hang  # type: ignore[method-assign]


def adapter_not_gathered(_run: Path) -> None:
    """The adapter is written without gathering its shards: its tensors have no elements."""
    from oxrl_core.engine import export

    right = export.adapter_state_dict

    def shards(*arguments: Any, **named: Any) -> Any:
        return {name: tensor.flatten()[:0].clone() for name, tensor in right(*arguments, **named).items()}

    export.adapter_state_dict = shards  # type: ignore[assignment]


FAULTS = [
    Fault("files_left_open", "every step leaves forty files open", {"too_many_files"}, "sft", plant=files_left_open),
    Fault(
        "port_is_taken",
        "the port of the rendezvous is taken by another run",
        {"eaddrinuse"},
        "dpo",
        plant=port_is_taken,
    ),
    Fault(
        "teacher_of_next_year",
        "transformers does not know the teacher's architecture",
        {"unknown_type", "wrong_request"},
        "kd",
        plant=teacher_of_next_year,
    ),
    Fault(
        "library_aborts",
        "a library in C++ cannot allocate and aborts",
        {"crashed", "host_out_of_memory"},
        "rm",
        ["run.max_restarts=0"],
        supervised=True,
        plant=aborts,
    ),
    Fault(
        "storage_hangs",
        "the file system does not answer when the second checkpoint is written",
        {"stalled", "deadline"},
        "kto",
        ["train.save_every=5", "run.stall_seconds=8", "run.on_stall=stop", "run.max_restarts=0"],
        supervised=True,
        plant=storage_hangs,
    ),
    Fault(
        "adapter_not_gathered",
        "the adapter is exported with tensors without elements",
        {"export_empty"},
        "dpo",
        ["model.lora.enabled=true", "train.lr=1e-2"],
        plant=adapter_not_gathered,
    ),
]
