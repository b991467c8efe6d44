"""Onboardings killed at random moments: `python -m benchmarks.onboarding_kills [--kills 20] [--model miniature:...]`.

Driver, or driver and supervisor at once, die by SIGKILL. Counted: onboardings that end verified, states that were done
twice, and child runs beyond the one that is needed.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

from oxrl_core.runs import launch, process
from oxrl_core.runs.records import read_lines
from oxrl_core.runs.rundir import RunDir
from oxrl_core.runs.supervision import resume
from swarm.onboard import onboard_model
from swarm.onboard.work import wait_until_ended


def kill(run: RunDir, both: bool) -> bool:
    """Whether something of the onboarding was alive and is dead now."""
    status = run.status()
    victims = [status.driver, status.supervisor] if both else [status.driver]
    alive = [one for one in victims if one is not None and process.is_alive(one)]
    for one in alive:
        os.kill(one.pid, signal.SIGKILL)
    return bool(alive)


def one_onboarding(home: Path, model: str, kills: int, moments: random.Random) -> dict[str, object]:
    """An onboarding that is killed so often, or until it ends."""
    run = RunDir(onboard_model(model, miniature_only=True, home=home).path)
    done = 0
    while done < kills:
        time.sleep(moments.uniform(0.2, 3.0))
        status = run.status()
        if status.state == "finished":
            break
        if status.has_ended or status.state == "orphaned":
            resume.resume(run)
            continue
        done += int(kill(run, both=moments.random() < 0.3))
    status = wait_until_ended(run)
    left = Counter(line["state"] for line in read_lines(run.path / "journal.jsonl") if line["event"] == "left")
    own = [i for i in launch.run_ids(home) if (RunDir(home / "runs" / i).spec().get("started_by") or {}).get("run_id")]
    return {
        "state": status.state,
        "kills": done,
        "twice": [state for state, count in left.items() if count > 1],
        "children": len(own),
    }


def main() -> None:
    """Print what came of each onboarding, and the sums."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--each", type=int, default=5, help="kills of one onboarding")
    parser.add_argument("--model", default="miniature:smollm2-135m-instruct")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    moments, kills, bad = random.Random(arguments.seed), 0, 0
    while kills < arguments.kills:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["OXRL_HOME"] = folder
            found = one_onboarding(Path(folder), arguments.model, arguments.each, moments)
        print(found, flush=True)
        kills += int(str(found["kills"]))
        bad += int(found["state"] != "finished" or bool(found["twice"]) or found["children"] != 1)
        if not found["kills"]:
            break
    print(f"{kills} kills, {bad} onboardings not verified or with something done twice")


if __name__ == "__main__":
    main()
