"""Repeats random steps of real runs and counts how many are equal bit for bit: `python benchmarks/replay.py`.

SFT, DPO, SGRPO and PPO on a model of three layers, each trained once on the local backend; then steps of them are
repeated at random, from whichever checkpoint is left. Everything a replay compares counts: metrics, log-probs,
advantages, returns, values, and the state where a checkpoint of the step is left. Exit code 1 where one differs.
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

ROOT = Path(__file__).parent.parent
RUNNER = ROOT / "tests" / "whole" / "replays.py"
COMMON = ["report.sinks=[]", "train.save_every=5", "train.keep_checkpoints=3"]
RECIPES = {
    "sft": ["train.rows_per_step=16"],
    "dpo": ["train.rows_per_step=16"],
    "sgrpo": ["train.prompts_per_step=8"],
    "ppo": ["train.prompts_per_step=8"],
}


def main() -> int:
    """0 where every repeated step was equal bit for bit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replays", type=int, default=50, help="steps to repeat in all")
    parser.add_argument("--steps", type=int, default=20, help="steps of each run")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    jobs = [
        {"name": name, "recipe": name, "overrides": [f"train.steps={arguments.steps}", *COMMON, *overrides]}
        for name, overrides in RECIPES.items()
    ]
    names = [name for index in range(arguments.replays) for name in [list(RECIPES)[index % len(RECIPES)]]]
    jobs += [{"name": "", "replay": name, "step": draw.randint(1, arguments.steps)} for name in names]
    equal = dict.fromkeys(RECIPES, 0)
    with tempfile.TemporaryDirectory() as home:
        began = time.monotonic()
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with subprocess.Popen(
            [sys.executable, str(RUNNER), home],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        ) as runner:
            assert runner.stdin is not None and runner.stdout is not None
            runner.stdin.write(json.dumps(jobs))
            runner.stdin.close()
            for job, line in zip(jobs, runner.stdout, strict=True):
                answer = json.loads(line)
                if "error" in answer:
                    print(f"{job}: {answer['error']}")
                    return 1
                if "recipe" in job:
                    print(f"{job['name']}: trained", flush=True)
                    continue
                result = answer["result"]
                equal[job["replay"]] += result["equal"]
                verdict = "equal" if result["equal"] else f"differs: {result['differences'][0]}"
                print(
                    f"{job['replay']} step {result['step']} from {result['started_from']}: {verdict} "
                    f"({sum(result['compared'].values())} numbers)",
                    flush=True,
                )
    asked = {name: names.count(name) for name in RECIPES}
    for name, count in equal.items():
        print(f"{name}: {count} of {asked[name]} steps equal bit for bit")
    print(f"all: {sum(equal.values())} of {len(names)} in {time.monotonic() - began:.0f} s")
    return 0 if sum(equal.values()) == len(names) else 1


if __name__ == "__main__":
    sys.exit(main())
