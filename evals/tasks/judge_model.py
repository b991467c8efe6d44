"""Scout: which of two models can be trained on one GPU, and why not the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evals.task import Check, Task, Tools, World, check

FITS, TOO_LARGE = "Qwen/Qwen2.5-1.5B-Instruct", "Qwen/Qwen3.5-27B"
PARAMETERS_B = 1.54  # from its model card


def ask(world: World) -> str:
    return (
        "I have one GPU of 24 GiB and want to train on mathematics. Look for models named qwen2.5-1.5b, and "
        "judge the one for instructions (not coder, not math) and also qwen3.5-27b for my GPU. The JSON: "
        '{"model": <hub id to take>, "parameters_b": <its parameters in billions>, "not": <hub id that does not fit>}'
    )


def setup(world: World) -> None:
    """The registry that comes with oxRL is all that is needed."""


def grade(world: World, answer: Mapping[str, Any]) -> list[Check]:
    size = answer.get("parameters_b")
    return [
        check("takes the model that fits", answer.get("model") == FITS, answer.get("model")),
        check("knows its size", isinstance(size, (int, float)) and abs(size - PARAMETERS_B) < 0.05, size),
        check("refuses the one that does not", answer.get("not") == TOO_LARGE, answer.get("not")),
        check("launched nothing", not list(world.home.glob("runs/*")), ""),
    ]


async def play(tools: Tools) -> dict[str, Any]:
    found = await tools.call("scout_models", query="qwen2.5-1.5b")
    (model,) = [item for item in found["items"] if item["id"].lower().endswith("/qwen2.5-1.5b-instruct")]
    reports = [
        await tools.call("inspect_model", model=name, gpus=1, gpu_memory_gib=24)
        for name in (model["slug"], "qwen3.5-27b")
    ]
    good, bad = (next(one for one in reports if (one["verdict"] == "no") is no) for no in (False, True))
    return {"model": good["model"], "parameters_b": good["parameters"] / 1e9, "not": bad["model"]}


TASK = Task("judge_model", "scout models and judge two of them for one GPU", ask, setup, grade, play)
