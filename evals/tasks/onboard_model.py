"""A model that oxRL has not trained here: onboard its miniature and say what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evals.task import Check, Task, Tools, World, check
from oxrl_core import api

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
ENDED = ("finished", "failed", "stopped", "lost")


def ask(world: World) -> str:
    return (
        f"Onboard the model {MODEL}, only as a miniature: this machine is offline and slow. Wait for its end. The "
        'JSON: {"run_id": ..., "state": <state of the onboarding>, "trainable": true or false}'
    )


def setup(world: World) -> None:
    """Nothing: the onboarding is made."""


def grade(world: World, answer: Mapping[str, Any]) -> list[Check]:
    runs = [run for run in api.list_runs(home=world.home, limit=50).runs if run.kind == "onboard"]
    if len(runs) != 1:
        return [check("exactly one onboarding", False, [run.run_id for run in runs])]
    (run,) = runs
    return [
        check("exactly one onboarding, and it is named", answer.get("run_id") == run.run_id, answer.get("run_id")),
        check("it finished", run.state == "finished" == answer.get("state"), run.state),
        check(
            "its miniature trains, and that is what is said", answer.get("trainable") is True, answer.get("trainable")
        ),
    ]


async def play(tools: Tools) -> dict[str, Any]:
    view = await tools.call("onboard_model", model=MODEL, miniature_only=True, key="onboard")
    while view["state"] not in ENDED:
        if view["state"] == "needs_input":
            await tools.call(
                "steer_onboarding", run_id=view["run_id"], action="give_up", reason="the player is a script"
            )
        view = await tools.call("watch_run", run_id=view["run_id"], cursor=view.get("cursor", ""), wait_seconds=40)
    return {"run_id": view["run_id"], "state": view["state"], "trainable": view["state"] == "finished"}


TASK = Task("onboard_model", "onboard a model as a miniature", ask, setup, grade, play, minutes=20)
