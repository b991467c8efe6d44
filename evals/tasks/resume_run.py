"""A true run that was stopped half way: go on with it, to its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evals.planting import train_and_stop
from evals.task import Check, Task, Tools, World, check
from oxrl_core import api
from oxrl_core.runs.rundir import RunDir

STEPS = 24


def ask(world: World) -> str:
    return (
        "The run named `halfway` was stopped because the machine was needed. Go on with it from where it was, until "
        'it has finished; start no other run. The JSON: {"run_id": ..., "state": ..., "steps": <steps done>}'
    )


def setup(world: World) -> None:
    run = train_and_stop(world, "halfway", STEPS, stop_after=3)
    world.facts.update(run_id=run.run_id, before=len(run.metrics(from_step=1)))


def grade(world: World, answer: Mapping[str, Any]) -> list[Check]:
    view = api.get_run(world.facts["run_id"], home=world.home)
    steps = [row["step"] for row in RunDir(view.path).metrics(["loss"], from_step=1)]
    return [
        check("it finished", view.state == "finished", view.state),
        check("no other run", len(api.list_runs(home=world.home).runs) == 1),
        check("every step once", steps == list(range(1, STEPS + 1)), steps),
        check("it was half way before", world.facts["before"] < STEPS, world.facts["before"]),
        check("it is named", answer.get("run_id") == view.run_id and answer.get("steps") == STEPS, answer),
    ]


async def play(tools: Tools) -> dict[str, Any]:
    (run,) = (await tools.call("list_runs", state="stopped"))["runs"]
    view = await tools.call("rerun", run_id=run["run_id"], mode="resume")
    while view["state"] not in ("finished", "failed", "stopped", "lost"):
        view = await tools.call("watch_run", run_id=run["run_id"], cursor=view.get("cursor", ""), wait_seconds=40)
    return {"run_id": view["run_id"], "state": view["state"], "steps": view["step"]}


TASK = Task("resume_run", "resume a stopped run to its end", ask, setup, grade, play)
