"""Two servers on one home, as two hosts have them: one launch by one key, and each sees what the other did."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from test_start import RawServer, initialize

CONFIG = """run: {name: shared, backend: local, stop_grace_seconds: 1}
model: {path: "miniature:chars"}
data: {train: reverse3}
reward: {name: positions}
algorithm: {name: sgrpo}
rollout: {engine: transformers, max_completion_tokens: 4}
"""


def send(server: RawServer, tool: str, number: int, **arguments: Any) -> None:
    server.send("tools/call", {"name": tool, "arguments": arguments}, number)


def receive(server: RawServer, number: int) -> dict[str, Any]:
    assert server.process.stdout is not None
    while True:
        message = json.loads(server.process.stdout.readline())
        if message.get("id") == number:
            return message["result"]


def test_two_servers_launch_one_run_of_one_key_and_share_it(tmp_path: Path) -> None:
    servers = [RawServer(tmp_path), RawServer(tmp_path)]
    try:
        for server in servers:
            initialize(server)
        for server in servers:
            send(server, "launch_run", 7, config=CONFIG, key="the same")
        launched = [receive(server, 7) for server in servers]
        assert not any(one.get("isError") for one in launched), launched
        views = [one["structuredContent"] for one in launched]
        assert views[0]["run_id"] == views[1]["run_id"]
        assert sorted(view.get("created", False) for view in views) == [False, True]
        assert len(list((tmp_path / "runs").glob("*/spec.json"))) == 1
        send(servers[1], "stop_run", 8, run_id=views[0]["run_id"], force=True)
        assert receive(servers[1], 8)["structuredContent"]["run_id"] == views[0]["run_id"]
        send(servers[0], "list_runs", 9, state="active")
        assert receive(servers[0], 9)["structuredContent"]["runs"] == []
    finally:
        for server in servers:
            server.process.kill()
            server.process.wait(timeout=20)
            for pipe in (server.process.stdin, server.process.stdout, server.process.stderr):
                if pipe is not None:
                    pipe.close()
