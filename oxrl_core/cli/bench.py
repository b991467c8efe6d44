"""`oxrl bench learn`: every recipe in a process of its own, several seeds each, and a verdict by standard errors."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from oxrl_core.errors import NotFoundError, RunFailure
from oxrl_core.suggest import did_you_mean

SEED_ALGORITHMS = (
    *("sft", "cpt", "kd", "dpo", "ipo", "simpo", "orpo", "kto", "rm"),
    *("sgrpo", "cispo", "ppo", "rloo", "rlhf", "rlaif", "online_dpo", "rft", "spin"),
)
STANDARD_ERRORS = 3.0  # by so many the mean improvement must lie above zero
END_SECONDS = 20.0  # for an interrupted process to leave by itself


class Measured(BaseModel):
    """One measure of one run."""

    name: str
    better: Literal["higher", "lower"]
    before: float
    after: float

    @property
    def improvement(self) -> float:
        """How much better it became, in the measure's own unit."""
        return self.after - self.before if self.better == "higher" else self.before - self.after


class Outcome(BaseModel):
    """One recipe with one seed."""

    algorithm: str
    seed: int
    flip: bool = False
    run_id: str = ""
    steps: int | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    diverged: str = ""  # why a run with a flipped loss ended before it could be measured
    error: str = ""
    measures: list[Measured] = []


class LearnRow(BaseModel):
    """One measure of one algorithm over all seeds."""

    algorithm: str
    measure: str
    before: float | None = None
    after: float | None = None
    improvement: float | None = None
    standard_error: float | None = None  # of the mean improvement; none with one seed
    standard_errors: float | None = None  # improvement / standard_error; none where that is 0 or unknown
    steps: int | None = None
    seconds: float = 0.0  # of one run, the mean over the seeds
    cpu_seconds: float = 0.0
    seeds: int = 0
    learned: bool = False
    note: str = ""


class LearnReport(BaseModel):
    """What `oxrl bench learn` measured."""

    ok: bool
    flipped: bool
    rows: list[LearnRow]
    outcomes: list[Outcome]
    seconds: float


def has_learned(improvements: Sequence[float]) -> bool:
    """Whether the mean improvement lies more than 3 standard errors above zero; of one seed, above zero at all."""
    mean, error = statistics.fmean(improvements), standard_error(improvements)
    return mean > STANDARD_ERRORS * (error or 0.0) and mean > 0


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean: deviation / sqrt(n), the deviation with n - 1; None of a single value."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def report_of(outcomes: Sequence[Outcome], *, flipped: bool, seconds: float) -> LearnReport:
    """The table of all outcomes: a row for each measure of an algorithm, or one that says why there is none."""
    rows: list[LearnRow] = []
    for name in dict.fromkeys(outcome.algorithm for outcome in outcomes):
        rows += _rows_of([outcome for outcome in outcomes if outcome.algorithm == name])
    failed = any(outcome.error for outcome in outcomes)
    # Turned round, nothing may improve; as it is, everything must.
    ok = not failed and all(row.learned != flipped for row in rows)
    return LearnReport(ok=ok, flipped=flipped, rows=rows, outcomes=list(outcomes), seconds=seconds)


def _rows_of(outcomes: Sequence[Outcome]) -> list[LearnRow]:
    measured = [outcome for outcome in outcomes if outcome.measures]
    notes = "; ".join(dict.fromkeys(text for outcome in outcomes for text in (outcome.error, outcome.diverged) if text))
    facts: dict[str, Any] = {
        "algorithm": outcomes[0].algorithm,
        "steps": outcomes[0].steps,
        "seconds": statistics.fmean(outcome.seconds for outcome in outcomes),
        "cpu_seconds": statistics.fmean(outcome.cpu_seconds for outcome in outcomes),
        "seeds": len(measured),
        "note": notes,
    }
    if not measured:
        return [LearnRow(measure="(not measured)", **facts)]
    rows: list[LearnRow] = []
    for place, first in enumerate(measured[0].measures):
        values = [outcome.measures[place] for outcome in measured]
        improvements = [value.improvement for value in values]
        mean, error = statistics.fmean(improvements), standard_error(improvements)
        rows.append(
            LearnRow(
                measure=first.name,
                before=statistics.fmean(value.before for value in values),
                after=statistics.fmean(value.after for value in values),
                improvement=mean,
                standard_error=error,
                standard_errors=mean / error if error else None,
                learned=len(measured) == len(outcomes) and has_learned(improvements),
                **facts,
            )
        )
    return rows


def chosen(names: Sequence[str]) -> list[str]:
    """The algorithms to run, each once: those named, or all seed algorithms. Each has a recipe of its name."""
    from oxrl_core.algorithms.base import all_algorithms
    from oxrl_core.config.sources import list_recipes
    from oxrl_core.discover import some_of

    known = set(all_algorithms()) & {recipe.name for recipe in list_recipes()}
    for name in names:
        if name not in known:
            raise NotFoundError(
                f"there is no recipe of an algorithm {name!r}.{did_you_mean(name, known)}",
                next_step=f"take some of: {some_of(sorted(known), 'algorithm')}",
            )
    return list(dict.fromkeys(names or SEED_ALGORITHMS))


def run_bench(
    names: Sequence[str],
    *,
    seeds: int,
    flip: bool,
    deadline_seconds: float,
    tell: Callable[[str], None],
) -> LearnReport:
    """Runs every named recipe with every seed, one process after the other, in a home that is removed afterwards."""
    algorithms = chosen(names)
    started = time.monotonic()
    # Whoever ends this process (a time limit, an agent) ends its runs with it, as Ctrl-C does, in a shell that has
    # Ctrl-C switched off too.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    home = Path(tempfile.mkdtemp(prefix="oxrl-bench-"))
    outcomes: list[Outcome] = []
    try:
        for name in algorithms:
            for seed in range(seeds):
                outcome = run_one(name, seed, home, flip=flip, deadline_seconds=deadline_seconds)
                outcomes.append(outcome)
                tell(f"[{len(outcomes)}/{len(algorithms) * seeds}] {_line(outcome)}")
    finally:
        shutil.rmtree(home, ignore_errors=True)  # a worker that is still dying may hold a file in it
    return report_of(outcomes, flipped=flip, seconds=time.monotonic() - started)


def run_one(name: str, seed: int, home: Path, *, flip: bool, deadline_seconds: float) -> Outcome:
    """What one process measured, or why it did not. Nothing of it is left running, whatever ends the wait."""
    command = [sys.executable, "-m", "oxrl_core.bench.learn", "--algorithm", name, "--seed", str(seed)]
    command += ["--home", str(home), *(["--flip"] if flip else [])]
    log = home / f"{name}-{seed}.log"
    facts: dict[str, Any] = {"algorithm": name, "seed": seed, "flip": flip}
    with log.open("w", encoding="utf-8") as errors:
        # A session of its own: a Ctrl-C reaches this process alone, and one signal reaches all of theirs.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
            env={**os.environ, "OXRL_HOME": str(home)},
        )
        try:
            said, _ = process.communicate(timeout=deadline_seconds)
        except subprocess.TimeoutExpired:
            return Outcome(**facts, error=f"not done after {deadline_seconds:.4g} s", seconds=deadline_seconds)
        finally:
            _end(process)
    try:
        answer: dict[str, Any] = json.loads(said.splitlines()[-1])
    except (ValueError, IndexError):
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it said nothing"]
        return Outcome(**facts, error=f"exit code {process.returncode}: {lines[-1]}")
    if "error" in answer:
        return Outcome(**facts, error=f"{answer['error']['code']}: {answer['error']['what']}")
    return Outcome.model_validate(answer)


def _end(process: subprocess.Popen[str]) -> None:
    """Ends a process and all of its session, if there is still something of it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            _signal_group(process.pid, number)
            try:
                process.wait(timeout=END_SECONDS)
            except subprocess.TimeoutExpired:
                continue
    _signal_group(process.pid, signal.SIGKILL)  # workers that outlived it
    if process.stdout is not None:
        process.stdout.close()
    if process.poll() is None:
        raise RunFailure("a process of the bench does not end", f"pid {process.pid}", "end it by hand")


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return  # nothing of it is left


def _line(outcome: Outcome) -> str:
    head = f"{outcome.algorithm} seed {outcome.seed}"
    if outcome.error or outcome.diverged:
        return f"{head}: {outcome.error or outcome.diverged}"
    changes = ", ".join(f"{one.name} {one.before:.3f} -> {one.after:.3f}" for one in outcome.measures)
    return f"{head}: {changes} ({outcome.seconds:.0f} s)"
