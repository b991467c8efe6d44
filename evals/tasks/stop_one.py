"""Three living runs, one of them lost: stop that one and no other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evals.planting import launch_endless
from evals.task import Check, Task, Tools, World, check
from oxrl_core import api

NAMES = ("amber", "birch", "cedar")
SICK = "birch"


def ask(world: World) -> str:
    return (
        "Three runs are going on. One of them has a loss that is no number any more. Stop that one, leave the others "
        'alone. The JSON: {"stopped": <run_id>}'
    )


def setup(world: World) -> None:
    for name in NAMES:
        world.facts[name] = launch_endless(world, name, float("nan") if name == SICK else 0.3).run_id


def grade(world: World, answer: Mapping[str, Any]) -> list[Check]:
    states = {name: api.get_run(world.facts[name], home=world.home).state for name in NAMES}
    others = [state for name, state in states.items() if name != SICK]
    return [
        check("the lost one is stopped", states[SICK] == "stopped", states),
        check("the others go on", all(state == "running" for state in others), states),
        check("it is named", answer.get("stopped") == world.facts[SICK], answer.get("stopped")),
    ]


async def play(tools: Tools) -> dict[str, Any]:
    for run in (await tools.call("list_runs", state="active"))["runs"]:
        metrics = await tools.call("get_metrics", run_id=run["run_id"], names=["loss"], max_points=4)
        column = metrics["columns"].index("loss")
        if metrics["rows"][-1][column] is None:  # not finite
            await tools.call("stop_run", run_id=run["run_id"], reason="the loss is no number")
            return {"stopped": run["run_id"]}
    return {"stopped": ""}


TASK = Task("stop_one", "stop the right one of three runs", ask, setup, grade, play)
