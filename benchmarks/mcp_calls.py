"""The MCP server as a process: how soon it answers, what it weighs, how quick its reads are, and what kills do to it.

    PYTHONPATH=. python benchmarks/mcp_calls.py [--rounds 15] [--runs 1000] [--calls 200] [--kills 200] [--seed 0]
                                                [--only PART,...]

Run it from the root of the repository, as a file: benchmarks/ is a folder of programs and no package.

start   wall seconds to the answer of `initialize` against importing `mcp` alone, in turns; ratio of the medians  (1.1)
weight  resident memory after `initialize`, after `tools/list` and after the reads below, in MB                   (80)
reads   p50 and p95 of calls on a home with so many runs, `list_runs` among them, from the last byte of a request
        written to the last byte of its answer read: what a host waits for, without its own reading of it         (2 ms)
kills   SIGKILL of the server at random moments around launches, by key, of a client that asks again each time:
        counted are keys with more than one run or none, answers that were given and are not true afterwards, runs
        without a supervisor, and JSON files of the home that cannot be read                                      (0)

The limits stand in brackets; the exit code is 1 where one is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
from list_runs import make_home
from mcp_start import HELLO, seconds_to_answer, seconds_to_import

from oxrl_core import api
from oxrl_core.runs.records import read_json, write_json
from oxrl_core.runs.rundir import RunDir

LIMITS = {"start": 1.1, "weight": 80.0, "reads": 2.0}
DEADLINE_SECONDS = 60.0
MB = 1_000_000
NO_LIMITS = {"OXRL_MCP_CALLS_PER_SECOND": "0", "OXRL_MCP_LAUNCHES_PER_HOUR": "0"}  # no agent is as quick

CONFIG = """run: {name: killed, backend: local, stop_grace_seconds: 1}
model: {path: "miniature:chars"}
data: {train: reverse3}
reward: {name: positions}
algorithm: {name: sgrpo}
rollout: {engine: transformers, max_completion_tokens: 4}
"""


class Gone(Exception):
    """The server has ended before it answered."""


class Server:
    """A server process, spoken to in lines of JSON."""

    def __init__(self, home: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mcp_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OXRL_HOME": str(home), **NO_LIMITS},
        )
        self._number = 1
        self.ask(HELLO)

    def send(self, message: dict[str, Any]) -> None:
        self.write(json.dumps(message).encode() + b"\n")

    def write(self, line: bytes) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line)
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Gone from None

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        self.send(message)
        return self.receive(message["id"])

    def receive(self, number: int) -> dict[str, Any]:
        """The answer to the request of this number."""
        while True:
            answer = json.loads(self.read_line())
            if answer.get("id") == number:
                return answer

    def read_line(self) -> bytes:
        """The next line that the server writes."""
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], DEADLINE_SECONDS)
        if not readable:
            raise TimeoutError(f"no answer in {DEADLINE_SECONDS:g} s")
        line = self.process.stdout.readline()
        if not line.endswith(b"\n"):
            raise Gone
        return line

    def request(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """The next request, numbered."""
        self._number += 1
        return {"jsonrpc": "2.0", "id": self._number, "method": method, "params": parameters}

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        return self.ask(self.request("tools/call", {"name": tool, "arguments": arguments}))["result"]

    def megabytes(self) -> float:
        return psutil.Process(self.process.pid).memory_info().rss / MB

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(timeout=20)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def measure_start(rounds: int) -> float:
    """The ratio of the medians."""
    imports, answers = list[float](), list[float]()
    with tempfile.TemporaryDirectory() as home:
        seconds_to_import(), seconds_to_answer(home)  # the first ones compile and fill the file cache
        for _ in range(rounds):
            imports.append(seconds_to_import())
            answers.append(seconds_to_answer(home))
    ratio = statistics.median(answers) / statistics.median(imports)
    print(
        f"start: import mcp {statistics.median(imports):.3f} s, initialize {statistics.median(answers):.3f} s, "
        f"ratio {ratio:.2f} (limit {LIMITS['start']})"
    )
    return ratio


def measure_reads(runs: int, calls: int) -> tuple[float, float]:
    """The most MB that it had, and the slowest p50 of the reads in milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        make_home(home, runs)
        newest = home / "runs" / f"run-260101-{runs - 1:06d}-abcd"
        for step in range(1, 201):
            RunDir(newest).append_metrics({"step": step, "reward/mean": step / 200, "loss": 0.1})
        (newest / "logs").mkdir(exist_ok=True)
        (newest / "logs" / "driver.log").write_text("".join(f"step {step}\n" for step in range(2000)))
        time.sleep(1.1)  # the folder has settled
        server = Server(home)
        try:
            weights = {"initialize": server.megabytes()}
            server.ask(server.request("tools/list", {}))
            weights["tools/list"] = server.megabytes()
            cases: dict[str, dict[str, Any]] = {
                "list_runs": {},
                "list_runs of 50": {"limit": 50},
                "list_runs active": {"state": "active"},
                "get_run": {"run_id": newest.name},
                "get_metrics": {"run_id": newest.name, "names": ["reward/mean"]},
                "read_logs": {"run_id": newest.name},
            }
            medians: list[float] = []
            for name, arguments in cases.items():
                tool = name.split()[0]
                assert not server.call(tool, **arguments).get("isError"), name
                taken = sorted(seconds_of(server, tool, arguments) * 1000 for _ in range(calls))
                medians.append(statistics.median(taken))
                print(f"reads: {name}: p50 {medians[-1]:.2f} ms, p95 {taken[int(len(taken) * 0.95)]:.2f} ms")
            weights["reads"] = server.megabytes()
        finally:
            server.kill()
    print("weight: " + ", ".join(f"{name} {weight:.0f} MB" for name, weight in weights.items()))
    print(f"reads: slowest p50 {max(medians):.2f} ms on {runs} runs (limit {LIMITS['reads']:g})")
    return max(weights.values()), max(medians)


def seconds_of(server: Server, tool: str, arguments: dict[str, Any]) -> float:
    message = server.request("tools/call", {"name": tool, "arguments": arguments})
    line = json.dumps(message).encode() + b"\n"
    began = time.perf_counter()
    server.write(line)
    answer = server.read_line()
    taken = time.perf_counter() - began
    assert json.loads(answer)["id"] == message["id"]
    return taken


def measure_kills(kills: int, seed: int) -> Counter[str]:
    """What went wrong, by kind; empty where nothing did."""
    chance = random.Random(seed)
    wrong: Counter[str] = Counter()
    answered: dict[str, str] = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        home, killed, number = Path(folder), 0, 0
        usual = 1.0  # seconds that a launch takes, so that kills fall all over it
        while killed < kills:
            number += 1
            key, run_id = f"key-{number}", ""
            for attempt in range(20):
                server = Server(home)
                try:
                    began = time.monotonic()
                    request = {"name": "launch_run", "arguments": {"config": CONFIG, "key": key}}
                    message = server.request("tools/call", request)
                    server.send(message)
                    if killed < kills and attempt < 4:
                        time.sleep(chance.random() * usual * 1.2)
                        killed += 1
                        server.kill()
                        continue  # the client asks a new server the same thing
                    result = server.receive(message["id"])["result"]
                    usual = time.monotonic() - began
                    if result.get("isError"):
                        wrong["refused"] += 1
                        print(result["content"][0]["text"])
                    else:
                        run_id = result["structuredContent"]["run_id"]
                    break
                except Gone:
                    wrong["ended of itself"] += 1
                finally:
                    if server.process.poll() is None:
                        server.kill()
            answered[key] = run_id
            wrong.update(look(home, key, run_id))
            for view in api.list_runs(state="active", home=home).runs:
                api.stop_run(view.run_id, reason="seen", force=True, home=home)
            if killed % 20 < 4:
                print(f"kills: {killed} of {kills}, wrong {dict(wrong)}", flush=True)
    print(f"kills: {killed} kills around {number} launches: {dict(wrong) or 'nothing wrong'}")
    return wrong


def look(home: Path, key: str, run_id: str) -> Counter[str]:
    """What is wrong in the home after a launch was answered."""
    wrong: Counter[str] = Counter()
    specs = {path.parent.name: read_json(path) for path in (home / "runs").glob("*/spec.json")}
    wrong["torn file"] += sum(spec is None for spec in specs.values())
    of_key = [name for name, spec in specs.items() if spec and spec.get("key") == key]
    wrong["double launch"] += len(of_key) > 1
    wrong["lost launch"] += run_id not in of_key
    for name in of_key:
        commands = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
        supervisors = [command for command in commands if name in command and "supervise" in command]
        wrong["two supervisors"] += len(supervisors) > 1
        state = api.get_run(name, home=home).state
        wrong["wrong state"] += state in ("lost", "orphaned")
    for path in (home / "runs").glob("*/status.json"):
        wrong["torn file"] += read_json(path) is None
    return +wrong


def main() -> int:
    """The exit code: 0 where every limit is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="start,reads,kills", help="start, reads (with weight), kills")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    options = parser.parse_args()
    parts = options.only.split(",")
    numbers: dict[str, Any] = {}
    if "start" in parts:
        numbers["start"] = measure_start(options.rounds)
    if "reads" in parts:
        numbers["weight"], numbers["reads"] = measure_reads(options.runs, options.calls)
    kept = all(numbers[name] <= limit for name, limit in LIMITS.items() if name in numbers)
    if "kills" in parts:
        numbers["kills"] = dict(measure_kills(options.kills, options.seed))
        kept = kept and not numbers["kills"]
    if options.json:
        write_json(options.json, numbers)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
