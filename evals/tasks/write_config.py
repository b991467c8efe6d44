"""A configuration for one GPU, written by the tools and kept in the home."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evals.task import Check, Task, Tools, World, check
from oxrl_core.config.check import check_config
from oxrl_core.config.load import load_config
from oxrl_core.errors import OxrlError

MODEL, RATE = "Qwen/Qwen2.5-0.5B-Instruct", 2e-6


def ask(world: World) -> str:
    return (
        "Write a configuration that trains qwen2.5-0.5b-instruct with sgrpo on gsm8k, for one GPU of 24 GiB, with a "
        f"learning rate of {RATE:g}. This machine is offline and has no GPU, so do not launch it. The JSON: "
        '{"config_id": <name of the generated configuration>}'
    )


def setup(world: World) -> None:
    """Nothing: the configuration is made."""


def grade(world: World, answer: Mapping[str, Any]) -> list[Check]:
    name = str(answer.get("config_id", ""))
    path = world.home / "configs" / name
    if "/" in name or not name or not path.is_file():
        return [check("the configuration is in the home", False, name)]
    try:
        config = load_config(str(path)).config
    except OxrlError as error:
        return [check("the configuration can be read", False, error)]
    gpus = check_config(config, home=world.home).gpus
    return [
        check("the configuration is in the home and can be read", True, name),
        check("the model", MODEL.lower() in config.model.path.lower(), config.model.path),
        check("the algorithm", config.algorithm.name == "sgrpo", config.algorithm.name),
        check("the data", "gsm8k" in str(config.data.train), config.data.train),
        check("the reward judges gsm8k", "gsm8k" in str(config.reward), config.reward),
        check("the learning rate", config.train.lr == RATE, config.train.lr),
        check("one GPU", gpus <= 1, gpus),
        check("launched nothing", not list(world.home.glob("runs/*")), ""),
    ]


async def play(tools: Tools) -> dict[str, Any]:
    made = await tools.call(
        "generate_config", model="qwen2.5-0.5b-instruct", algorithm="sgrpo", dataset="gsm8k", gpus=1,
        gpu_memory_gib=24, overrides=[f"train.lr={RATE:g}"],
    )  # fmt: skip
    return {"config_id": made["config_id"]}


TASK = Task("write_config", "write a configuration for one GPU", ask, setup, grade, play)
