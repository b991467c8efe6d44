"""Two runs: which is better, and by what they differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from evals.planting import is_close, rows_of, write_run
from evals.task import Check, Task, Tools, World, check

KEY, REWARDS = "train.lr", {"cautious": 0.50, "bold": 0.80}


def ask(world: World) -> str:
    return (
        "The runs `cautious` and `bold` were meant to differ in one key. Which key is it, and which run has the higher "
        'last reward/mean? The JSON: {"better": <name>, "key": <a.b>, "difference": <how much higher>}'
    )


def rising_to(top: float) -> Callable[[int], float]:
    """A metric that grows evenly over forty steps."""
    return lambda step: top * step / 40


def setup(world: World) -> None:
    for name, rate in (("cautious", "1e-4"), ("bold", "1e-3")):
        top = REWARDS[name]
        rows = rows_of(40, reward__mean=rising_to(top), lr=float(rate))
        write_run(world, name, [f"{KEY}={rate}"], rows)
    write_run(world, "other", ["train.lr=5e-3"], rows_of(40, reward__mean=0.9))


def grade(world: World, answer: Mapping[str, Any]) -> list[Check]:
    return [
        check("the better one", answer.get("better") == "bold", answer.get("better")),
        check("the key", answer.get("key") == KEY, answer.get("key")),
        check("the difference", is_close(answer.get("difference"), 0.30, 0.005), answer.get("difference")),
    ]


async def play(tools: Tools) -> dict[str, Any]:
    runs = {run["name"]: run["run_id"] for run in (await tools.call("list_runs"))["runs"]}
    compared = await tools.call("compare_runs", run_ids=[runs["cautious"], runs["bold"]], metrics=["reward/mean"])
    keys = [key for key in compared["differing"] if key != "run.name"]
    last: dict[str, float] = {}
    for name in ("cautious", "bold"):
        metrics = await tools.call("get_metrics", run_id=runs[name], names=["reward/mean"], max_points=2)
        last[name] = metrics["summary"]["reward/mean"]["last"]
    better = max(last, key=lambda name: last[name])
    return {"better": better, "key": keys[0], "difference": round(max(last.values()) - min(last.values()), 3)}


TASK = Task("compare_two", "compare two runs", ask, setup, grade, play)
