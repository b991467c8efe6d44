"""Stops of runs whose processes do not want to leave, among decoys: nothing of a run may stay, nobody else may go.

    python benchmarks/stops.py [--stops 100]

Each run is a driver that ignores SIGTERM, a child in a session of its own, and a double-forked daemon that ignores
SIGTERM and hides its environment. Beside it live a process with the driver's command line, one with the name of its
child, a foreign tree whose titles are those of Ray's workers, and another run. The exit code is 1 where a process was
left, a foreign one ended, or a stop took longer than 15 s.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from oxrl_core.runs import launch, process
from oxrl_core.runs.rundir import RunDir

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "runs"))

from run_trees import NASTY_TREE, SLEEP, nasty_pids, start_decoys

LIMIT_SECONDS = 15.0


def make_run(home: Path, number: int, driver: str) -> RunDir:
    """A run whose driver is this text."""
    home.mkdir(exist_ok=True)
    script = home / f"driver_{number}.py"
    script.write_text(driver)
    command = [sys.executable, str(script)]
    spec = {"kind": "rl", "command": command, "stop_grace_seconds": 1.0}
    return RunDir.create_from_parts(home, "stop", "run: {}\n", spec)


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    return process.is_alive(process.identify(pid))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stops", type=int, default=100)
    stops = parser.parse_args().stops
    left, seconds = 0, list[float]()
    decoys = start_decoys()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        neighbour = make_run(home, -1, SLEEP)
        launch.launch(neighbour)
        try:
            for number in range(stops):
                run = make_run(home, number, NASTY_TREE)
                launch.launch(run)
                pids = nasty_pids(run)
                began = time.monotonic()
                launch.stop(run, "benchmark")
                seconds.append(time.monotonic() - began)
                left += sum(is_alive(pid) for pid in pids) + len(process.members_by_run().get(run.run_id, []))
            gone = sum(decoy.poll() is not None for decoy in decoys)
            gone += neighbour.status().has_ended
        finally:
            launch.stop(neighbour, "benchmark", 0.0)
            for decoy in decoys:
                decoy.kill()
                decoy.wait()
    print(f"{stops} stops: {left} processes left, {gone} of {len(decoys) + 1} foreign ones touched")
    print(f"seconds: p50 {statistics.median(seconds):.1f}, longest {max(seconds):.1f}")
    sys.exit(int(bool(left or gone or max(seconds) > LIMIT_SECONDS)))


if __name__ == "__main__":
    main()
