"""Out of GPU memory: overrides that need less of it and leave the gradient what it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from evals.planting import rows_of, write_run
from evals.task import Check, Task, Tools, World, check
from oxrl_core.config.load import load_config
from oxrl_core.errors import OxrlError
from oxrl_core.runs.rundir import RunDir

LOG = """step 1 of 200
step 2 of 200
Traceback (most recent call last):
  File "/opt/oxrl/oxrl_core/train/step.py", line 88, in train_step
    policy.backward(loss)
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has 23.68 GiB of which 1 GiB is free.
Including non-PyTorch memory, this process has 22.57 GiB memory in use.
"""
# How a step is computed, not what it learns: no other key may change.
HOW = ("train.micro_batch_tokens", "model.gradient_checkpointing", "rollout.memory_fraction", "deepspeed.", "run.")


def ask(world: World) -> str:
    return (
        f"The run {world.facts['run_id']} failed. Find out why and give overrides that repair it without changing what "
        "the gradient of a step is. Check that the configuration is valid with them; this machine cannot run it. The "
        'JSON: {"cause": <code of the cause>, "overrides": ["a.b=value", ...]}'
    )


def setup(world: World) -> None:
    error = {
        "code": "OutOfMemoryError",
        "what": "CUDA out of memory. Tried to allocate 2.50 GiB",
        "where": "train_step",
        "next": "",
    }
    world.facts["run_id"] = write_run(world, "large", rows=rows_of(2), error=error, log=LOG).run_id


def leaves(mapping: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Every value by its dotted key."""
    found: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, dict) and value:
            found |= leaves(cast("dict[str, Any]", value), f"{above}{key}.")
        else:
            found[f"{above}{key}"] = value
    return found


def grade(world: World, answer: Mapping[str, Any]) -> list[Check]:
    run = RunDir(world.home / "runs" / world.facts["run_id"])
    old = run.config()
    try:
        named: list[Any] = answer.get("overrides") or []
        overrides = [str(item) for item in named]
        new = load_config(run.path / "config.yaml", overrides).config
    except OxrlError as error:
        return [check("the overrides can be read", False, error)]
    less = {
        "smaller micro-batches": new.train.micro_batch_tokens < old.train.micro_batch_tokens,
        "a smaller share for the sampler": new.rollout.memory_fraction < old.rollout.memory_fraction,
    }
    before, after = leaves(old.model_dump(mode="json")), leaves(new.model_dump(mode="json"))
    changed = [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]
    others = [key for key in changed if not key.startswith(HOW)]
    return [
        check("the cause", answer.get("cause") == "cuda_oom", answer.get("cause")),
        check("it needs less memory", any(less.values()), [name for name, holds in less.items() if holds]),
        check("the gradient is the same", not others, others),
    ]


async def play(tools: Tools) -> dict[str, Any]:
    (run,) = (await tools.call("list_runs", state="failed"))["runs"]
    found = await tools.call("diagnose_run", run_id=run["run_id"])
    overrides = list(found["causes"][0]["overrides"])
    checked = await tools.call("validate_config", config="sgrpo", overrides=overrides)
    assert checked["ok"], checked
    return {"cause": found["causes"][0]["cause"], "overrides": overrides}


TASK = Task("repair_oom", "repair a run that ran out of GPU memory", ask, setup, grade, play)
