"""Kills of whoever launches runs, at random moments: every run that was begun goes on to its end, each exactly once.

    python benchmarks/supervision.py [--kills 100] [--by launcher|server|both]

`launcher` is a process that launches a run by `oxrl_core.runs.launch`. `server` is `oxrl-mcp`, asked over its own
protocol to launch a run of the smallest model; it costs several seconds a kill. After each kill the launch is repeated
with the same key: it must give the same run. The exit code is 1 where a run was lost, begun twice, or did not finish.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from oxrl_core import api
from oxrl_core.runs import launch
from oxrl_core.runs.records import read_json
from oxrl_core.runs.rundir import RunDir

END_SECONDS = 300.0
ASK_SECONDS = 120.0
MOST_AT_ONCE = 2  # runs that still go on when the next server is killed
LAUNCHER = """
import sys
from pathlib import Path
from oxrl_core.config.load import load_config
from oxrl_core.runs import launch
loaded = load_config("demo", ["run.name=killed"])
print("ready", flush=True)
driver = "import time; time.sleep(1); print('done')"
command = [sys.executable, "-c", driver]
run, created = launch.open_run(Path(sys.argv[1]), loaded, "rl", sys.argv[2], command)
launch.launch(run)
print(run.run_id, flush=True)
"""
SMALL = [
    "run.name=killed",
    "run.backend=local",
    "rollout.engine=transformers",
    "train.steps=2",
    "train.prompts_per_step=2",
    "rollout.group_size=2",
    "rollout.max_completion_tokens=4",
    "train.eval_rows=2",
]


class Server:
    """`oxrl-mcp` and a client that speaks just enough of its protocol."""

    def __init__(self, home: Path) -> None:
        # Its own limit of launches is for agents, not for a hundred of these.
        environment = {**os.environ, "OXRL_HOME": str(home), "OXRL_MCP_LAUNCHES_PER_HOUR": "0"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mcp_server"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "kill", "version": "1"}}
        self.send({"id": 1, "method": "initialize", "params": hello})
        self.answer()
        self.send({"method": "notifications/initialized"})

    def send(self, message: dict[str, Any]) -> None:
        """Writes one message."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        self.process.stdin.flush()

    def launch(self, key: str) -> None:
        """Asks for a run and does not wait for it."""
        arguments = {"config": "demo", "overrides": SMALL, "key": key}
        self.send({"id": 2, "method": "tools/call", "params": {"name": "launch_run", "arguments": arguments}})

    def answer(self) -> dict[str, Any]:
        """The next answer of the server."""
        assert self.process.stdout
        deadline = time.monotonic() + ASK_SECONDS
        while time.monotonic() < deadline:
            message = json.loads(self.process.stdout.readline())
            if "id" in message:
                return message
        raise TimeoutError("the server did not answer")

    def kill(self) -> None:
        """Ends it without a word."""
        self.process.kill()
        self.process.wait()


def kill_a_launcher(home: Path, key: str) -> str:
    """The run that a launcher began which was killed at a random moment, and which a second one was asked for."""
    command = [sys.executable, "-c", LAUNCHER, str(home), key]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert first.stdout
    first.stdout.readline()
    time.sleep(random.uniform(0.0, 0.6))
    first.kill()
    first.communicate()
    second = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=ASK_SECONDS, check=True)
    return second.stdout.split()[-1]


def kill_a_server(home: Path, key: str) -> str:
    """The run that a server began which was killed at a random moment, and which a second one was asked for."""
    while len(api.list_runs(state="active", limit=MOST_AT_ONCE + 1, home=home).runs) > MOST_AT_ONCE:
        time.sleep(0.2)  # what is asked is whether a run goes on, not how many fit this machine
    first = Server(home)
    first.launch(key)
    time.sleep(random.uniform(0.0, 3.0))
    first.kill()
    second = Server(home)
    second.launch(key)
    answer = second.answer()
    second.kill()
    return str(answer["result"]["structuredContent"]["run_id"])


def is_whole(run: RunDir) -> bool:
    """Whether a run finished, and its driver was started exactly once."""
    deadline = time.monotonic() + END_SECONDS
    while not run.status().has_ended and time.monotonic() < deadline:
        time.sleep(0.1)
    began = run.read_logs(grep="done").lines if "command" in run.spec() else run.read_logs(grep="step 0/").lines
    return run.status().state == "finished" and len(began) == 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--by", choices=("launcher", "server", "both"), default="both")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    random.seed(options.seed)
    faults = 0
    killers = {"launcher": kill_a_launcher, "server": kill_a_server}
    with tempfile.TemporaryDirectory() as folder:
        for name, kill in killers.items():
            if options.by not in (name, "both"):
                continue
            home = Path(folder) / name
            home.mkdir()
            # The keys name the runs: a key with two runs, or a run with two keys, would show here.
            ids = [kill(home, f"key {number}") for number in range(options.kills)]
            begun = [RunDir(home / "runs" / view.run_id) for view in api.list_runs(limit=10**6, home=home).runs]
            whole = sum(is_whole(run) for run in begun if run.run_id in ids)
            # A launcher that died between mkdir and its key leaves a folder that was never begun: it has no driver.
            strays = [run for run in begun if run.run_id not in ids and read_json(run.path / "status.json")]
            for run in strays:
                launch.stop(run, "begun without its key", 0.0)
            print(
                f"{options.kills} kills of the {name}: {whole} runs went on to their end, {len(set(ids))} keys with "
                f"one run each, {len(strays)} runs begun twice"
            )
            faults += (options.kills - whole) + (options.kills - len(set(ids))) + len(strays)
    sys.exit(int(faults > 0))


if __name__ == "__main__":
    main()
