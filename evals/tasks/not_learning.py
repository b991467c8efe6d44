"""A run that does not learn: the verifier gives 0 to everything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evals.planting import rows_of, write_run
from evals.task import Check, Task, Tools, World, check

CAUSE = "reward_zero"


def ask(world: World) -> str:
    return (
        f"The run {world.facts['run_id']} does not learn. Find the cause, and check it against the run's own numbers. "
        'The JSON: {"cause": <code of the cause>, "metric": <a metric that shows it>, "last": <its last value>}'
    )


def setup(world: World) -> None:
    flat = {"reward__mean": 0.0, "reward__std": 0.0, "groups__zero_variance": 1.0, "grad_norm": 0.0, "loss": 0.0}
    # A healthy run beside it, so that there is something to confuse it with.
    write_run(world, "healthy", rows=rows_of(40))
    world.facts["run_id"] = write_run(world, "flat", rows=rows_of(40, **flat)).run_id


def grade(world: World, answer: Mapping[str, Any]) -> list[Check]:
    telling = {"reward/mean": 0.0, "reward/std": 0.0, "groups/zero_variance": 1.0, "grad_norm": 0.0}
    metric = str(answer.get("metric"))
    return [
        check("the cause", answer.get("cause") == CAUSE, answer.get("cause")),
        check("a metric that shows it", metric in telling, metric),
        check("its value", metric in telling and answer.get("last") == telling[metric], answer.get("last")),
    ]


async def play(tools: Tools) -> dict[str, Any]:
    (run,) = [run for run in (await tools.call("list_runs"))["runs"] if run["name"] == "flat"]
    found = await tools.call("diagnose_run", run_id=run["run_id"])
    metrics = await tools.call("get_metrics", run_id=run["run_id"], names=["reward/mean"], max_points=2)
    return {
        "cause": found["causes"][0]["cause"],
        "metric": "reward/mean",
        "last": metrics["summary"]["reward/mean"]["last"],
    }


TASK = Task("not_learning", "find why a planted run does not learn", ask, setup, grade, play)
