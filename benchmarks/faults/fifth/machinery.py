"""Runs that are ended by their machine, their files or their libraries, and models that are not written whole."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from benchmarks.faults.define import HERE, Fault, own
from benchmarks.faults.fifth_plants import edit_config
from benchmarks.faults.fourth_plants import set_in
from benchmarks.faults.patches import before_updates

PLANTS = HERE / "fifth_plants.py"
hoard: list[bytearray] = []


def never_loaded(_run: Path) -> None:
    """The file system on which the weights lie does not answer."""
    from oxrl_core.engine.policy import PolicyEngine

    PolicyEngine._load_trained = lambda self: time.sleep(3600)  # type: ignore[method-assign,assignment]


def grows_until_killed(_run: Path) -> None:
    """The process keeps twelve megabytes a step, until the kernel ends it."""

    def grow(engine: Any) -> None:
        hoard.append(bytearray(b"x") * (12 * 2**20))
        if engine.num_steps >= 24:
            os.kill(os.getpid(), signal.SIGKILL)

    before_updates(grow)


def no_probabilities(_run: Path) -> None:
    """Logits overflow in float16 at the eighth generation: what torch.multinomial raises there."""
    from oxrl_core.rollout.hf_worker import TransformersWorker

    right = TransformersWorker.generate
    calls: list[int] = []

    def overflow(self: Any, *arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) >= 8:
            raise RuntimeError("probability tensor contains either `inf`, `nan` or element < 0")
        return right(self, *arguments, **named)

    TransformersWorker.generate = overflow  # type: ignore[method-assign]


def callback_fails(_run: Path) -> None:
    """A callback of the user's looks for a stage of the curriculum that nobody has defined."""
    stages = {"easy": 0, "middle": 4}

    def look(engine: Any) -> None:
        if engine.num_steps >= 8:
            stages["hard"]

    before_updates(look)


def rows_cleaned_away(run: Path) -> None:
    """The scratch disk was cleaned between the making of the run and its start."""

    def name(config: Any) -> None:
        config["data"]["train"][0]["name"] = str(run / "scratch" / "rows.jsonl")

    edit_config(run, name)


def config_of_another_size(run: Path) -> None:
    """The model's config.json is that of the larger model of the family."""
    from oxrl_core.models.miniature import make_miniature

    folder = make_miniature("chars", run / "mixed", 0)
    config = json.loads((folder / "config.json").read_text())
    config["intermediate_size"] *= 2
    (folder / "config.json").write_text(json.dumps(config))
    set_in(run, "model.path", str(folder))


def not_gathered(_run: Path) -> None:
    """The shards of a score model are not gathered when it is written."""
    from oxrl_core.engine import export

    right = export.merged_state_dict
    export.compare = lambda *_arguments: ""

    def shards(*arguments: Any, **named: Any) -> Any:
        weights = right(*arguments, **named)
        return {name: tensor.flatten()[:0].clone() for name, tensor in weights.items()}

    export.merged_state_dict = shards  # type: ignore[assignment]


FAULTS = [
    Fault(
        "temporary_files_full",
        "from step 6 on the verifier cannot write its temporary files",
        {"disk_full", "verifier_errors"},
        "rloo",
        [f"reward.name={own('temporary_files_full', PLANTS)}", "train.steps=16"],
    ),
    Fault(
        "never_loaded",
        "the weights are never loaded",
        {"stalled", "deadline"},
        "dpo",
        ["run.start_timeout_seconds=3", "run.stall_seconds=6", "run.on_stall=stop", "run.max_restarts=0"],
        supervised=True,
        plant=never_loaded,
    ),
    Fault(
        "grows_until_killed",
        "memory grows at every step until the kernel kills the run",
        {"host_out_of_memory", "killed", "memory_leak"},
        "simpo",
        ["run.max_restarts=0"],
        supervised=True,
        plant=grows_until_killed,
    ),
    Fault(
        "no_probabilities",
        "the sampler's logits overflow",
        {"nan_probs", "not_finite"},
        "dapo",
        plant=no_probabilities,
    ),
    Fault("callback_fails", "a callback fails at step 8", {"unexplained_failure"}, "kto", plant=callback_fails),
    Fault(
        "rows_cleaned_away",
        "the file of the rows is not there any more",
        {"ds_file", "wrong_request"},
        "cpt",
        plant=rows_cleaned_away,
    ),
    Fault(
        "config_of_another_size",
        "config.json and weights are of two sizes",
        {"size_mismatch", "wrong_request", "bad_checkpoint"},
        "dft",
        plant=config_of_another_size,
    ),
    Fault(
        "not_gathered",
        "the model is exported with tensors without elements",
        {"export_empty"},
        "rm",
        plant=not_gathered,
    ),
]
