"""How long `list_runs` takes on a home with a thousand runs: cold (no index), then warm, its first page and a filter.

python benchmarks/list_runs.py [--runs 1000] [--calls 200]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from oxrl_core import api
from oxrl_core.runs.records import write_json
from oxrl_core.runs.rundir import RunDir


def make_home(home: Path, count: int) -> None:
    """A home with runs that ended in all ways, with the records of a true run."""
    states = ("finished", "failed", "stopped")
    for number in range(count):
        run = RunDir(home / "runs" / f"run-260101-{number:06d}-abcd")
        run.path.mkdir(parents=True)
        run.write_progress("finished", 200, 200, {f"metric/{index}": index / 7 for index in range(40)})
        record = {"state": states[number % 3], "started_at": time.time(), "ended_at": time.time(), "exit_code": 0}
        write_json(run.path / "status.json", record)
        write_json(run.path / "spec.json", {"kind": "rl", "name": "run", "created_at": time.time()})


def milliseconds(call: Callable[[], object], calls: int) -> list[float]:
    """The time of each call, sorted."""
    taken: list[float] = []
    for _ in range(calls):
        began = time.perf_counter()
        call()
        taken.append((time.perf_counter() - began) * 1000)
    return sorted(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--calls", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        make_home(home, options.runs)
        time.sleep(1.1)  # the folder has settled
        (cold,) = milliseconds(lambda: api.list_runs(limit=options.runs, home=home), 1)
        print(f"{options.runs} runs; all of them without an index: {cold:.0f} ms")
        cases: dict[str, Callable[[], object]] = {
            "first page of 20": lambda: api.list_runs(limit=20, home=home),
            "first page of 50": lambda: api.list_runs(home=home),
            "active runs": lambda: api.list_runs(state="active", home=home),
            "failed runs, page of 50": lambda: api.list_runs(state="failed", home=home),
        }
        for name, call in cases.items():
            taken = milliseconds(call, options.calls)
            p99 = taken[int(len(taken) * 0.99)]
            print(f"{name}: p50 {statistics.median(taken):.2f} ms, p99 {p99:.2f} ms")


if __name__ == "__main__":
    main()
