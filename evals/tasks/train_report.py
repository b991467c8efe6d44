"""Launch, watch, report: a true run of seconds, and its numbers as they are on disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evals.planting import QUICK, is_close
from evals.task import Check, Task, Tools, World, check
from oxrl_core import api
from oxrl_core.runs.rundir import RunDir

STEPS = 6
OVERRIDES = ["run.name=report", f"train.steps={STEPS}", "train.eval_every=3", *QUICK]


def ask(world: World) -> str:
    return (
        f"Train the recipe `sgrpo` with these overrides: {OVERRIDES}. Look at the plan first. Wait until it has ended, "
        "then tell me whether it finished and the last held-out accuracy and reward. The JSON: "
        '{"run_id": ..., "state": ..., "steps": <steps done>, "accuracy": <number>, "reward": <number>}'
    )


def setup(world: World) -> None:
    """Nothing: the run is made."""


def grade(world: World, answer: Mapping[str, Any]) -> list[Check]:
    runs = api.list_runs(home=world.home).runs
    if not runs:
        return [check("a run was launched", False)]
    view = runs[0]
    rows = RunDir(world.home / "runs" / view.run_id).metrics(["eval/accuracy", "eval/reward"])
    measured = rows[-1] if rows else {"eval/accuracy": -1.0, "eval/reward": -1.0}
    return [
        check("exactly one run was launched", len(runs) == 1, len(runs)),
        check("it is named", answer.get("run_id") == view.run_id, answer.get("run_id")),
        check(
            "it finished", view.state == "finished" == answer.get("state"), f"{view.state}, said {answer.get('state')}"
        ),
        check("all steps", view.step == STEPS == answer.get("steps"), answer.get("steps")),
        check("accuracy as measured", is_close(answer.get("accuracy"), measured["eval/accuracy"]), measured),
        check("reward as measured", is_close(answer.get("reward"), measured["eval/reward"]), measured),
    ]


async def play(tools: Tools) -> dict[str, Any]:
    plan = await tools.call("launch_run", config="sgrpo", overrides=OVERRIDES, dry_run=True)
    words = {"config": "sgrpo", "overrides": OVERRIDES, "key": "train-report", "plan_hash": plan["plan_hash"]}
    view = await tools.call("launch_run", **words)
    assert (await tools.call("launch_run", **words))["run_id"] == view["run_id"], "a retry starts no second run"
    while view["state"] not in ("finished", "failed", "stopped", "lost"):
        view = await tools.call("watch_run", run_id=view["run_id"], cursor=view.get("cursor", ""), wait_seconds=40)
    metrics = await tools.call("get_metrics", run_id=view["run_id"], names=["eval/accuracy", "eval/reward"])
    return {
        "run_id": view["run_id"],
        "state": view["state"],
        "steps": view["step"],
        "accuracy": metrics["summary"]["eval/accuracy"]["last"],
        "reward": metrics["summary"]["eval/reward"]["last"],
    }


TASK = Task("train_report", "launch a run, watch it, report its accuracy", ask, setup, grade, play)
