"""What differs between runs: keys of their configurations, their metrics, and whether the seeds agree that it does."""

from __future__ import annotations

import hashlib
import itertools
import json
import statistics
import string
from collections.abc import Sequence
from typing import Any

from oxrl_core.errors import ConfigError
from oxrl_core.runs.analysis.curves import KEY_METRICS, direction_of, metric_names, points_of, rounded
from oxrl_core.runs.analysis.settings import default_of, settings_of
from oxrl_core.runs.analysis.statistics import FEWEST, Difference, holm, paired, welch
from oxrl_core.runs.rundir import RunDir
from oxrl_core.runs.views import View
from oxrl_core.sparkline import sparkline

FEWEST_RUNS, MOST_RUNS = 2, 10
FINAL_POINTS = 10  # one step's reward is mostly luck; an evaluation stands for itself
TESTED = ("eval/reward", "eval/accuracy", "eval/loss", "preference/accuracy", "reward/mean", "loss")
# What may differ between runs of one configuration: it changes no number but through the dice.
NOT_COMPARED = ("run.seed", "run.name", "report.")
COURSE_WIDTH = 32


class ComparedRun(View):
    """One of the runs; `label` names it in the rest of the comparison."""

    label: str
    run_id: str
    state: str
    step: int
    seed: int | None
    configuration: str
    """Runs with the same letter differ by seed and name alone."""


class DifferingKey(View):
    """A key with more than one value among the runs."""

    key: str
    values: dict[str, str]
    """Label of the run -> its value; a dash where it has none."""


class ComparedCurve(View):
    """One metric of one run."""

    metric: str
    run: str
    first: float | None
    final: float | None
    """Mean of the last ten rows; of an evaluation the last one."""
    best: float | None
    """Greatest, or least of a loss; null where neither is better."""
    best_step: int | None
    course: str


class SeedTest(View):
    """Whether a metric's final value differs between two configurations, over their seeds."""

    metric: str
    baseline: str
    other: str
    num_baseline: int
    num_other: int
    difference: float | None
    low: float | None
    """95 % interval of the difference."""
    high: float | None
    p: float | None
    """Two-sided, corrected for the number of tests here (Holm)."""
    method: str
    verdict: str


class ComparisonView(View):
    """Runs side by side."""

    runs: list[ComparedRun]
    differing: list[DifferingKey]
    curves: list[ComparedCurve]
    tests: list[SeedTest]
    notes: list[str]


def compare(runs: Sequence[RunDir]) -> ComparisonView:
    """The comparison of 2 to 10 runs, the first configuration as baseline."""
    if len({run.run_id for run in runs}) != len(runs):
        raise ConfigError("a run is named twice", "runs", "name each run once; `oxrl run list` shows the ids")
    if not FEWEST_RUNS <= len(runs) <= MOST_RUNS:
        raise ConfigError(f"{len(runs)} runs are given", "runs", f"name {FEWEST_RUNS} to {MOST_RUNS} runs")
    settings = _completed([settings_of(run) for run in runs])
    rows = [run.metrics() for run in runs]
    labels = list(string.ascii_uppercase[: len(runs)])
    configurations = _configurations(settings)
    compared: list[ComparedRun] = []
    for place, run in enumerate(runs):
        status, seed = run.status(), settings[place].get("run.seed")
        compared.append(
            ComparedRun(
                label=labels[place],
                run_id=run.run_id,
                state=status.state,
                step=status.step,
                seed=seed if isinstance(seed, int) else None,
                configuration=configurations[place],
            )
        )
    tests, notes = _tests(compared, rows)
    unread = [run.run_id for run, one in zip(runs, settings, strict=True) if not one]
    notes += [f"the configuration of {run_id} cannot be read" for run_id in unread]
    notes += _unfinished(compared)
    return ComparisonView(
        runs=compared, differing=_differing(settings, labels), curves=_curves(rows, labels), tests=tests, notes=notes
    )


def final_value(rows: Sequence[dict[str, Any]], name: str) -> float | None:
    """Mean of the last ten values of a metric, of an evaluation the last one; None where it has none."""
    numbers = [value for _, value in points_of(rows, name) if value is not None]
    if not numbers:
        return None
    return numbers[-1] if name.startswith("eval/") else statistics.fmean(numbers[-FINAL_POINTS:])


def best_value(rows: Sequence[dict[str, Any]], name: str) -> tuple[float | None, int | None]:
    """The best value of a metric and its step; None where neither more nor less of it is better."""
    direction = direction_of(name, rows)
    numbers = [(value, step) for step, value in points_of(rows, name) if value is not None]
    if not numbers or direction == 0:
        return None, None
    return (max if direction > 0 else min)(numbers, key=lambda pair: pair[0])


def _completed(settings: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The settings with the keys that other runs have: an older version, without them, did what is the default now."""
    keys = dict.fromkeys(key for one in settings for key in one)
    return [{key: one[key] if key in one else default_of(key, one) for key in keys} if one else {} for one in settings]


def _configurations(settings: Sequence[dict[str, Any]]) -> list[str]:
    """A letter for each run: the same where only seed and name differ."""
    hashes = [
        hashlib.sha256(
            json.dumps({k: v for k, v in one.items() if not k.startswith(NOT_COMPARED)}, sort_keys=True).encode()
        ).hexdigest()
        for one in settings
    ]
    letters = {value: string.ascii_lowercase[place] for place, value in enumerate(dict.fromkeys(hashes))}
    return [letters[value] for value in hashes]


def _differing(settings: Sequence[dict[str, Any]], labels: Sequence[str]) -> list[DifferingKey]:
    keys = dict.fromkeys(key for one in settings for key in one if key != "run.name")
    found: list[DifferingKey] = []
    for key in keys:
        values = [_value_text(one, key) for one in settings]
        if len(set(values)) > 1:
            found.append(DifferingKey(key=key, values=dict(zip(labels, values, strict=True))))
    return found


def _value_text(settings: dict[str, Any], key: str) -> str:
    if key not in settings:
        return "-"
    value = settings[key]
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _curves(rows: Sequence[list[dict[str, Any]]], labels: Sequence[str]) -> list[ComparedCurve]:
    """The key metrics that two runs or more have; courses between the same two values, so that heights compare."""
    everywhere = metric_names([row for one in rows for row in one])
    curves: list[ComparedCurve] = []
    for name in [name for name in KEY_METRICS if name in everywhere]:
        series = [[value for _, value in points_of(one, name)] for one in rows]
        numbers = [value for one in series for value in one if value is not None]
        is_in = sum(any(value is not None for value in one) for one in series)
        if is_in < FEWEST_RUNS or min(numbers) == max(numbers):
            continue
        for label, one, values in zip(labels, rows, series, strict=True):
            first = next((value for value in values if value is not None), None)
            best, step = best_value(one, name)
            curves.append(
                ComparedCurve(
                    metric=name,
                    run=label,
                    first=rounded(first),
                    final=rounded(final_value(one, name)),
                    best=rounded(best),
                    best_step=step,
                    course=sparkline(values, COURSE_WIDTH, low=min(numbers), high=max(numbers)),
                )
            )
    return curves


def _tests(runs: Sequence[ComparedRun], rows: Sequence[list[dict[str, Any]]]) -> tuple[list[SeedTest], list[str]]:
    """Every later configuration against the first, where both have enough seeds; else a note that says so."""
    places: dict[str, list[int]] = {}
    for place, run in enumerate(runs):
        places.setdefault(run.configuration, []).append(place)
    if len(places) == 1:
        return [], ["all runs have one configuration: they show how much its seeds scatter"]
    first, *others = places.items()
    tests: list[SeedTest] = []
    differences: list[Difference] = []
    notes: list[str] = []
    for other in others:
        sizes = (len(first[1]), len(other[1]))
        if min(sizes) < FEWEST:
            notes.append(
                f"configurations {first[0]} and {other[0]}: {sizes[0]} and {sizes[1]} run(s) are too few to say "
                f"whether they differ by more than chance; launch at least {FEWEST} seeds of each (run.seed=1, 2, ...)"
            )
            continue
        for metric in TESTED:
            found = _test(metric, first, other, runs, rows)
            if found is not None:
                tests.append(found[0])
                differences.append(found[1])
    for test, p in zip(tests, holm([difference.p for difference in differences]), strict=True):
        test.p = rounded(p)
        test.verdict = _verdict(test, p, direction_of(test.metric, rows[0]))
    return tests, notes


def _test(
    metric: str,
    first: tuple[str, list[int]],
    other: tuple[str, list[int]],
    runs: Sequence[ComparedRun],
    rows: Sequence[list[dict[str, Any]]],
) -> tuple[SeedTest, Difference] | None:
    groups: list[dict[int | str, float]] = []
    for _, places in (first, other):
        values = {place: final_value(rows[place], metric) for place in places}
        groups.append({_seed(runs, place): value for place, value in values.items() if value is not None})
    baseline, rival = groups
    if min(len(baseline), len(rival)) < FEWEST:
        return None
    if set(baseline) == set(rival):
        seeds = list(baseline)
        difference = paired([baseline[seed] for seed in seeds], [rival[seed] for seed in seeds])
        method = "paired t over the seeds"
    else:
        difference = welch(list(baseline.values()), list(rival.values()))
        method = "Welch's t"
    test = SeedTest(
        metric=metric,
        baseline=first[0],
        other=other[0],
        num_baseline=len(baseline),
        num_other=len(rival),
        difference=rounded(difference.mean),
        low=rounded(difference.low),
        high=rounded(difference.high),
        p=None,
        method=method,
        verdict="",
    )
    return test, difference


def _seed(runs: Sequence[ComparedRun], place: int) -> int | str:
    """The seed of a run; two runs of one configuration with the same seed stay two."""
    run = runs[place]
    twins = [one for one in runs if (one.configuration, one.seed) == (run.configuration, run.seed)]
    return run.seed if run.seed is not None and len(twins) == 1 else run.run_id


def _verdict(test: SeedTest, p: float, direction: int) -> str:
    if p >= 0.05:
        return "no difference beyond chance"
    if direction == 0 or test.difference is None:
        return "differs"
    is_better = (test.difference > 0) == (direction > 0)
    return f"{test.other} is {'better' if is_better else 'worse'}"


def _unfinished(runs: Sequence[ComparedRun]) -> list[str]:
    steps = {run.step for run in runs}
    if len(steps) == 1:
        return []
    short, long = min(steps), max(steps)
    names = ", ".join(run.label for run in itertools.islice((run for run in runs if run.step < long), 5))
    return [
        f"the runs have different lengths ({short} to {long} steps; shorter: {names}): final values are of other steps"
    ]
