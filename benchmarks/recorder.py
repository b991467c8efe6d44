"""What the flight recorder and the tripwires cost: step time with them on over step time with them off.

    python benchmarks/recorder.py [--recipe sgrpo,sft,dpo] [--rounds 24] [--block 4] [--shape SHAPE]

Two shapes: `microscopic` is the recipe with its model of 0.4M parameters and rows of some tokens, where a step is
mostly overhead; `realistic` has a model of more layers, and completions of 128 tokens, or answers of 200.

Two runs live in one process, one with everything on and one with everything off, and take turns: a block of steps of
the one, a block of the other (off, on, on, off, ...), so that a slow spell of the machine meets both. The first two
steps of each are left out. The step's own clock does not see the journal: a block is timed from report to report,
writing included, and a block that records ends when all of it is on disk. The result is the median of the ratios of
neighbouring blocks, with its quartiles, and the ratio of the CPU seconds of the whole process.
"""

from __future__ import annotations

import argparse
import json
import os
import random
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
ANSWERS = ("completion", "chosen", "rejected")
LONGER = [  # of completions that are drawn: none ends before its last token, so that a step takes seconds
    "rollout.max_completion_tokens=128",
    "rollout.stop_at_eos=false",
    "train.prompts_per_step=8",
    "rollout.group_size=8",
]
ROWS, ANSWER = 64, 200  # of a supervised run: rows of data, and characters (each is a token) of an answer
SKIPPED = 2  # steps of each run: first calls compile, allocate and import
OFF = ["rollout.record=false", "tripwires.enabled=false"]
LOCAL = [
    "run.backend=local",
    "rollout.engine=transformers",
    "data.eval=[]",
    "report.sinks=[]",
    "report.samples_every=0",
]


class Turns:
    """One run that goes on block by block."""

    def __init__(self, recipe: str, overrides: list[str], home: Path) -> None:
        from oxrl_core.algorithms.base import get_algorithm
        from oxrl_core.build import build_rl, build_sl
        from oxrl_core.config.load import load_config
        from oxrl_core.runs.rundir import RunDir
        from oxrl_core.train.journal import Journal
        from oxrl_core.train.rl import train_rl
        from oxrl_core.train.sl import train_sl
        from oxrl_core.types import Progress

        loaded = load_config(recipe, [*LOCAL, *overrides])
        config, self.progress = loaded.config, Progress()
        run = RunDir.create(home, loaded, kind="benchmark")
        is_rl = get_algorithm(config.algorithm.name).kind == "rl"
        self.parts = build_rl(config, run, self.progress) if is_rl else build_sl(config, run, self.progress)
        self.journal = Journal(run, config, self.parts)
        self.journal.restore(self.progress)
        self.reports = train_rl(self.parts, self.progress) if is_rl else train_sl(self.parts, self.progress)
        self.seconds: list[float] = []  # a step, of each block
        self.cpu: list[float] = []  # of the whole process, likewise

    def take(self, steps: int) -> None:
        """The next steps, and what one of them took."""
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            self.journal.write(next(self.reports), self.progress)
        if self.journal.recorder is not None:
            self.journal.recorder.flush()
        self.seconds.append((time.perf_counter() - wall) / steps)
        self.cpu.append((time.process_time() - cpu) / steps)

    def close(self) -> None:
        self.journal.close()
        self.parts.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="sgrpo,sft,dpo", help="one or several, with commas between")
    parser.add_argument("--rounds", type=int, default=24, help="blocks of each of the two")
    parser.add_argument("--block", type=int, default=4, help="steps of a block")
    parser.add_argument("--shape", choices=[*SHAPES, "both"], default="both")
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    results = [
        measure(recipe, shape, arguments)
        for recipe in arguments.recipe.split(",")
        for shape in (SHAPES if arguments.shape == "both" else [arguments.shape])
    ]
    print("\n" + "\n".join(results))


def long_rows(folder: Path) -> Path:
    """A file of rows for any supervised recipe: prompts of 40 digits, and two answers of 200 each."""
    draw = random.Random(0)

    def digits(number: int) -> str:
        return "".join(draw.choices("0123456789", k=number))

    rows = [{"prompt": digits(40), **{key: digits(ANSWER) for key in ANSWERS}} for _ in range(ROWS)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "rows.jsonl"


def measure(recipe: str, shape: str, arguments: argparse.Namespace) -> str:
    """What one recipe in one shape took, on and off, and their ratios."""
    from oxrl_core.algorithms.base import get_algorithm
    from oxrl_core.config.load import load_config

    is_rl = get_algorithm(load_config(recipe).config.algorithm.name).kind == "rl"
    steps = SKIPPED + arguments.rounds * arguments.block
    with tempfile.TemporaryDirectory() as folder:
        longer = LONGER if is_rl else [f"data.train={long_rows(Path(folder))}"]
        own = [f"train.steps={steps}", *SHAPES[shape], *(longer if shape == "realistic" else []), *arguments.overrides]
        off = Turns(recipe, [*own, *OFF], Path(folder))
        on = Turns(recipe, own, Path(folder))
        try:
            for one in (off, on):
                one.take(SKIPPED + 1)  # and the report before the first step
            for index in range(arguments.rounds):
                for one in (off, on) if index % 2 else (on, off):
                    one.take(arguments.block)
        finally:
            off.close()
            on.close()
    ratios = [with_all / without for with_all, without in zip(on.seconds[1:], off.seconds[1:], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    of_cpu = sum(on.cpu[1:]) / sum(off.cpu[1:])
    return (
        f"{recipe}, {shape}: {statistics.median(off.seconds[1:]) * 1e3:.1f} ms a step without, "
        f"{statistics.median(on.seconds[1:]) * 1e3:.1f} with; step time x {middle:.3f} ({low:.3f} to {high:.3f}), "
        f"CPU x {of_cpu:.3f}"
    )


if __name__ == "__main__":
    main()
