"""One recipe, run and measured: `python -m oxrl_core.bench.learn --algorithm NAME --seed N` prints one JSON line.

The run is built and driven as any run is, in this process (backend local) with the transformers sampler. `--flip` turns
the sign of the loss, here alone: an algorithm that seems to learn all the same was measured by something that improves
by itself. Models that a recipe needs from another run (a teacher, a reward model, a beginner) are made first, once for
each seed and home, and never flipped.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oxrl_core.algorithms.base import algorithm, get_algorithm
from oxrl_core.bench.judge_server import judge_server
from oxrl_core.config.load import load_config
from oxrl_core.engine.environment import engine_environment
from oxrl_core.errors import ConfigError, NumericsError, OxrlError, RunFailure
from oxrl_core.rewards.base import close_workers
from oxrl_core.runs.rundir import RunDir, oxrl_home

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.config.schema import Config

HERE = ("run.backend=local", "rollout.engine=transformers", "train.keep_checkpoints=1", "rollout.record=false")
# The key of a recipe that names another run -> the recipe that makes it.
NEEDED = {"algorithm.teacher": "sft", "reward.path": "rm", "model.path": "sft"}
# Who goes on from another model begins with a beginner, of so many steps: one that finds right answers by drawing and
# is far from right every time. The reward model tells drafts apart and no more: below it there must be room to climb.
BEGINNER_STEPS = {"rlhf": 10}
OTHER_BEGINNER_STEPS = 15
RUN = "run:"


def main(argv: Sequence[str] | None = None) -> int:
    """0 with the measured run as JSON on standard output, or the code of an error with the error there."""
    parser = argparse.ArgumentParser(prog="python -m oxrl_core.bench.learn", description=__doc__)
    parser.add_argument("--algorithm", required=True, help="an algorithm with a recipe of its name")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--flip", action="store_true", help="turn the sign of the loss")
    parser.add_argument("--home", type=Path, default=None, help="folder of the runs; none: OXRL_HOME")
    arguments = parser.parse_args(argv)
    os.environ.update({name: value for name, value in engine_environment().items() if name not in os.environ})
    home: Path = (arguments.home or oxrl_home()).absolute()
    try:
        with redirect_stdout(sys.stderr):  # what a run says step by step is no result
            result = learn(arguments.algorithm, arguments.seed, home, flip=arguments.flip)
    except OxrlError as error:
        print(json.dumps({"error": error.as_dict()}), flush=True)
        return error.exit_code
    print(json.dumps(result, allow_nan=False), flush=True)
    return 0


def learn(name: str, seed: int, home: Path, *, flip: bool) -> dict[str, Any]:
    """What the recipe of an algorithm made of its model: each measure before and after, and the time it took."""
    with ExitStack() as stack:
        overrides = [f"run.seed={seed}", *HERE]
        for key in needed(load_config(name, overrides).config):
            steps = BEGINNER_STEPS.get(name, OTHER_BEGINNER_STEPS)
            short = [f"train.steps={steps}"] if key == "model.path" else []
            overrides.append(f"{key}={RUN}{made(NEEDED[key], seed, home, short)}")
        if load_config(name, overrides).config.reward.name == "judge":
            url = stack.enter_context(judge_server())
            overrides += [f"reward.url={url}", "reward.cache=off"]
        run = create_run(home, name, overrides)
        if flip:
            flip_loss(name)
        started, cpu = time.monotonic(), time.process_time()
        ended = ""
        try:
            train(run)
        except NumericsError as error:
            if not flip:
                raise
            ended = error.what  # the flipped loss has no bottom: it may well fall beyond all numbers
        if not flip:
            remember(record_of(home, name, seed), run)
        seconds, cpu_seconds = time.monotonic() - started, time.process_time() - cpu
    return {
        "algorithm": name,
        "seed": seed,
        "flip": flip,
        "run_id": run.run_id,
        "steps": run.config().train.steps,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
        "diverged": ended,
        "measures": [] if ended else measured(run),
    }


def needed(config: Config) -> list[str]:
    """The keys of a recipe that name another run."""
    values = {
        "algorithm.teacher": config.algorithm.teacher,
        "reward.path": config.reward.params.get("path"),
        "model.path": config.model.path,
    }
    return [key for key, value in values.items() if str(value or "").startswith(RUN)]


def made(recipe: str, seed: int, home: Path, overrides: Sequence[str]) -> str:
    """The id of a finished run of a recipe, from this home or made now."""
    record = record_of(home, recipe, seed, overrides)
    if record.is_file():
        return record.read_text(encoding="utf-8")
    run = create_run(home, recipe, [f"run.seed={seed}", *HERE, *overrides])
    train(run)
    remember(record, run)
    return run.run_id


def record_of(home: Path, recipe: str, seed: int, overrides: Sequence[str] = ()) -> Path:
    """The file that names the finished run of a recipe, for those who need one."""
    return home / "needed" / f"{'-'.join([recipe, *overrides, str(seed)])}.txt"


def remember(record: Path, run: RunDir) -> None:
    """Names a finished run for others."""
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(run.run_id, encoding="utf-8")


def create_run(home: Path, name: str, overrides: Sequence[str]) -> RunDir:
    """A run directory for a recipe."""
    return RunDir.create(home, load_config(name, overrides), kind=get_algorithm(name).kind)


def train(run: RunDir) -> None:
    """Drives a run to its end; anything but success is an error."""
    from oxrl_core.driver import StopRequest, drive

    try:
        code = drive(run, run.config(), StopRequest())
    finally:
        close_workers()
    if code != 0:
        raise RunFailure(f"the run ended with exit code {code}", str(run.path), "read what it printed")


def measured(run: RunDir) -> list[dict[str, Any]]:
    """Each measure of the run's algorithm on the model that it started from and on the one that it left."""
    from oxrl_core.bench.measures import Subject, measures_of
    from oxrl_core.models.load import resolve_model

    config = run.config()

    def folder(path: str) -> Path:
        return resolve_model(path, run_folder=run.path, home=run.home, seed=config.run.seed)

    other = config.algorithm.teacher or config.reward.params.get("path")
    beside = folder(str(other)) if other else None
    before = Subject(folder(config.model.path), config, beside)
    after = Subject(folder(f"{RUN}{run.run_id}"), config, beside)
    return [
        {"name": measure.name, "better": measure.better, "before": measure.of(before), "after": measure.of(after)}
        for measure in measures_of(get_algorithm(config.algorithm.name), config)
    ]


def flip_loss(name: str) -> None:
    """Turns the sign of an algorithm's loss in this process; regularizers and a critic's loss keep theirs."""
    entry = get_algorithm(name)
    loss: Callable[..., Tensor] = entry.loss

    @functools.wraps(loss)  # the catalogue reads the signature through it, and takes it for the same function
    def flipped(*signals: Any, **params: Any) -> Tensor:
        return -loss(*signals, **params)

    register = algorithm(name, entry.paper, lesson=entry.lesson, running=entry.running, summary=entry.summary)
    register(flipped)
    if get_algorithm(name).loss is loss:
        raise ConfigError(f"the loss of {name} was not flipped", "oxrl_core/bench/learn.py")


if __name__ == "__main__":
    sys.exit(main())
