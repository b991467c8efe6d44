"""A server that is killed takes no run with it, and the next one sees how the run went on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from test_start import RawServer, initialize

RUN = [
    "run.backend=local",
    "train.steps=3",
    "train.rows_per_step=4",
    "train.eval_every=0",
    "report.sinks=[]",
]


def call(server: RawServer, tool: str, **arguments: Any) -> dict[str, Any]:
    """What a tool answers."""
    answer = server.ask("tools/call", {"name": tool, "arguments": arguments}, number=7)["result"]
    assert not answer.get("isError"), answer
    return json.loads(answer["content"][0]["text"])


@pytest.mark.engine
def test_a_killed_server_takes_no_run_with_it_and_the_next_one_sees_it_through(tmp_path: Path) -> None:
    first = RawServer(tmp_path)
    try:
        initialize(first)
        bound = {"config": "sft", "overrides": RUN, "key": "one"}
        plan = call(first, "launch_run", **bound, dry_run=True)
        launched = call(first, "launch_run", **bound, plan_hash=plan["plan_hash"])
        assert launched["created"] is True
    finally:
        first.process.kill()
        assert first.process.wait(timeout=20) == -9
    second = RawServer(tmp_path)
    try:
        initialize(second)
        listed = call(second, "list_runs")
        assert launched["run_id"] in json.dumps(listed)
        view: dict[str, Any] = {"state": ""}
        for _ in range(20):
            view = call(second, "watch_run", run_id=launched["run_id"], wait_seconds=20)
            if view["state"] not in ("queued", "starting", "running"):
                break
        assert (view["state"], view["step"]) == ("finished", 3), view
        again = call(second, "launch_run", **bound, plan_hash=plan["plan_hash"])
        assert (again["run_id"], again["created"]) == (launched["run_id"], False)
    finally:
        second.process.kill()
        second.process.wait(timeout=20)
