"""What the flight recorder and the tripwires cost: step time with them on over step time with them off.

    python benchmarks/recorder.py [--recipe sgrpo] [--rounds 6] [--steps 12] [--shape microscopic|realistic|both]

Two shapes: `microscopic` is the recipe with its model of 0.4M parameters and completions of some tokens, where a step
is mostly overhead; `realistic` has a model of more layers and, where completions are drawn, 128 tokens of each.

Runs alternate in one process (off, on, on, off, ...), so that a slow spell of the machine meets both. Of each run the
first two steps are left out. The step's own clock does not see the journal: steps are timed from report to report,
writing included. The result is the ratio of the medians, and of the CPU seconds of the whole process.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from oxrl_core.engine.environment import engine_environment

os.environ.update(engine_environment())
os.environ.setdefault("OMP_NUM_THREADS", "1")

SHAPES: dict[str, list[str]] = {
    "microscopic": [],
    "realistic": ["model.path=miniature:qwen2.5-0.5b-instruct", "data.max_prompt_tokens=96", "data.max_length=256"],
}
LONGER = [  # of completions that are drawn: none ends before its last token, so that a step takes seconds
    "rollout.max_completion_tokens=128",
    "rollout.stop_at_eos=false",
    "train.prompts_per_step=8",
    "rollout.group_size=8",
]
SKIPPED = 2  # steps of each run: first calls compile, allocate and import
OFF = ["rollout.record=false", "tripwires.enabled=false"]
LOCAL = [
    "run.backend=local",
    "rollout.engine=transformers",
    "data.eval=[]",
    "report.sinks=[]",
    "report.samples_every=0",
]


def time_steps(recipe: str, overrides: list[str], home: Path) -> tuple[list[float], float]:
    """Seconds from report to report, and CPU seconds a step, of one run."""
    from oxrl_core.algorithms.base import get_algorithm
    from oxrl_core.build import build_rl, build_sl
    from oxrl_core.config.load import load_config
    from oxrl_core.runs.rundir import RunDir
    from oxrl_core.train.journal import Journal
    from oxrl_core.train.rl import train_rl
    from oxrl_core.train.sl import train_sl
    from oxrl_core.types import Progress

    loaded = load_config(recipe, [*LOCAL, *overrides])
    config, progress = loaded.config, Progress()
    run = RunDir.create(home, loaded, kind="benchmark")
    is_rl = get_algorithm(config.algorithm.name).kind == "rl"
    parts = build_rl(config, run, progress) if is_rl else build_sl(config, run, progress)
    journal = Journal(run, config, parts)
    journal.restore(progress)
    seconds: list[float] = []
    cpu = 0.0
    last = time.perf_counter()
    try:
        for report in train_rl(parts, progress) if is_rl else train_sl(parts, progress):
            journal.write(report, progress)
            now = time.perf_counter()
            if report.step > SKIPPED:
                seconds.append(now - last)
            elif report.step == SKIPPED:
                cpu = time.process_time()
            last = now
    finally:
        journal.close()
        parts.close()
    return seconds, (time.process_time() - cpu) / len(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="sgrpo")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--shape", choices=[*SHAPES, "both"], default="both")
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    for shape in SHAPES if arguments.shape == "both" else [arguments.shape]:
        measure(shape, arguments)


def measure(shape: str, arguments: argparse.Namespace) -> None:
    """Prints the times of one shape, on and off, and their ratios."""
    from oxrl_core.algorithms.base import get_algorithm
    from oxrl_core.config.load import load_config

    is_rl = get_algorithm(load_config(arguments.recipe).config.algorithm.name).kind == "rl"
    of_shape = [*SHAPES[shape], *(LONGER if shape == "realistic" and is_rl else [])]
    times: dict[str, list[float]] = {"off": [], "on": []}
    cpu: dict[str, list[float]] = {"off": [], "on": []}
    with tempfile.TemporaryDirectory() as folder:
        for index in range(2 * arguments.rounds):
            kind = "on" if index % 4 in (1, 2) else "off"
            own = [*of_shape, *arguments.overrides, *(OFF if kind == "off" else [])]
            overrides = [f"train.steps={arguments.steps}", *own]
            seconds, of_process = time_steps(arguments.recipe, overrides, Path(folder))
            times[kind] += seconds
            cpu[kind].append(of_process)
    for name, seconds in times.items():
        median = statistics.median(seconds) * 1e3
        print(f"{shape}, {name}: median {median:.1f} ms a step, fastest {min(seconds) * 1e3:.1f}, of {len(seconds)}")
    ratio = statistics.median(times["on"]) / statistics.median(times["off"])
    fastest = min(times["on"]) / min(times["off"])
    of_cpu = statistics.median(cpu["on"]) / statistics.median(cpu["off"])
    print(f"{arguments.recipe}, {shape}: step time x {ratio:.4f}, fastest x {fastest:.4f}, CPU x {of_cpu:.4f}")


if __name__ == "__main__":
    main()
