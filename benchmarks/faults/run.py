"""Runs the planted faults and the clean runs, diagnoses each, and counts who was right."""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import pkgutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks import faults
from benchmarks.faults.clean import CLEAN
from benchmarks.faults.define import Fault
from oxrl_core.diagnose.diagnosis import diagnose
from oxrl_core.diagnose.views import Diagnosis
from oxrl_core.runs import launch
from oxrl_core.runs.records import read_lines, write_json
from oxrl_core.runs.rundir import RunDir

# What a run imports when it first needs it: each fork would pay for it again.
LOADED_LATE = (
    "deepspeed", "deepspeed.runtime.engine", "deepspeed.runtime.zero.stage_1_and_2", "torch._dynamo", "pyarrow.parquet",
    "torch._inductor.compile_fx", "networkx", "deepspeed.module_inject",
    "transformers.models.qwen2.modeling_qwen2", "transformers.models.llama.modeling_llama",
    "transformers.models.auto.modeling_auto", "transformers.generation", "transformers.tokenization_utils_tokenizers",
)  # fmt: skip
NOT_PLANTED = "not-planted.txt"
SHOWN = (
    "loss", "reward/mean", "reward/errors", "groups/zero_variance", "eval/reward", "eval/loss", "entropy", "lr",
    "grad_norm", "kl/ref", "completion/length", "data/dropped", "seconds",
)  # fmt: skip
START_SECONDS = 240.0  # for a supervised run to take its first step


@dataclass
class Result:
    """What became of one fault."""

    name: str
    planted: str
    expected: list[str]
    found: list[str]  # causes at level error or warning, the first one first
    alarms: list[str]  # causes at level error
    confidence: float
    seconds: float
    path: str
    problem: str = ""  # why there is no diagnosis
    ended: str = ""  # how the run ended, where it was not diagnosed

    @property
    def is_right(self) -> bool:
        """The first finding is one of those that are right."""
        return bool(self.found) and self.found[0] in self.expected

    @property
    def is_found(self) -> bool:
        """One of the findings is right."""
        return bool(set(self.found) & set(self.expected))


def all_faults(part: str = "") -> list[Fault]:
    """The faults of all folders beside this file, or of one of them."""
    found: list[Fault] = []
    for folder in pkgutil.iter_modules(faults.__path__):
        if not folder.ispkg or (part and folder.name != part):
            continue
        package = importlib.import_module(f"{faults.__name__}.{folder.name}")
        for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda one: one.name):
            found += importlib.import_module(f"{package.__name__}.{module.name}").FAULTS
    names = [fault.name for fault in found]
    assert len(names) == len(set(names)), "two faults have one name"
    return found


def play(fault: Fault, home: Path, *, is_dry: bool = False) -> Result:
    """The result of one fault: its run, and what the diagnosis says of it; dry: only how the run ended."""
    from oxrl_core.algorithms.base import get_algorithm
    from oxrl_core.config.load import load_config

    began = time.monotonic()
    path = ""
    try:
        loaded = load_config(fault.recipe, fault.all_overrides())
        kind = get_algorithm(loaded.config.algorithm.name).kind
        command = [sys.executable, "-m", "benchmarks.faults.child", fault.name] if fault.supervised else None
        run = RunDir.create(home, loaded, kind=kind, command=command)
        path = str(run.path)
        if not fault.starts:
            pass
        elif fault.supervised:
            # A run with a command of its own is never started again by itself; these may be, as a true one.
            write_json(run.path / "spec.json", run.spec() | {"max_restarts": loaded.config.run.max_restarts})
            _supervised(fault, run)
        else:
            _forked(fault, run)
        if fault.after is not None:
            fault.after(run)
        if is_dry:
            return replace(_result(fault, None, time.monotonic() - began, path), ended=_end(run))
        diagnosis = diagnose(run)
    except Exception as error:  # one fault that cannot be planted must not keep the others from running
        problem = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
        return replace(_result(fault, None, time.monotonic() - began, path), problem=problem)
    return _result(fault, diagnosis, time.monotonic() - began, path)


def _result(fault: Fault, diagnosis: Diagnosis | None, seconds: float, path: str) -> Result:
    findings = diagnosis.findings if diagnosis is not None else []
    said = [finding for finding in findings if finding.severity != "info" or finding.cause in fault.expected]
    return Result(
        name=fault.name,
        planted=fault.planted,
        expected=sorted(fault.expected),
        found=[finding.cause for finding in said],
        alarms=[finding.cause for finding in said if finding.severity == "error"],
        confidence=said[0].confidence if said else 0.0,
        seconds=round(seconds, 1),
        path=path,
    )


def _end(run: RunDir) -> str:
    """How a run ended, with the first and the last row of its metrics: whether a plant does what it says."""
    status, rows = run.status(), read_lines(run.path / "metrics.jsonl")
    error = status.error or {}
    lines = [f"{status.state} at step {status.step} {error.get('code', '')} {error.get('what', '')}".rstrip()]
    for row in (*rows[:2], *rows[-1:]):
        shown = {name: value for name, value in row.items() if isinstance(value, float) and name in SHOWN}
        lines.append(f"{row.get('step')}: " + " ".join(f"{name}={value:.4g}" for name, value in shown.items()))
    return "\n".join(lines)


def _forked(fault: Fault, run: RunDir) -> None:
    """The run in a child of this process, which has loaded everything heavy already; its end is waited for."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            log = os.open(run.logs / "driver.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.environ.update(fault.environment)
            code = drive(fault, run)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    deadline = time.monotonic() + fault.seconds
    while time.monotonic() < deadline:
        ended, _ = os.waitpid(pid, os.WNOHANG)
        if ended and (run.path / NOT_PLANTED).exists():
            raise RuntimeError(f"the fault could not be planted: {(run.path / NOT_PLANTED).read_text()}")
        if ended:
            return
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise TimeoutError(f"the run of {fault.name} took more than {fault.seconds:g} s: {run.path}")


def drive(fault: Fault, run: RunDir) -> int:
    """The exit code of the driver, with the fault planted before it builds anything."""
    from oxrl_core import driver

    if fault.plant is not None:
        try:
            fault.plant(run.path)
        except BaseException:
            (run.path / NOT_PLANTED).write_text(traceback.format_exc())
            raise
    return driver.main(["--run-dir", str(run.path)])


def _supervised(fault: Fault, run: RunDir) -> None:
    launch.launch(run)
    deadline = time.monotonic() + START_SECONDS
    while not run.status().step and not run.status().has_ended and time.monotonic() < deadline:
        time.sleep(0.1)
    if fault.during is not None:
        fault.during(run)
    deadline = time.monotonic() + fault.seconds
    while not run.status().has_ended and fault.after is None and time.monotonic() < deadline:
        time.sleep(0.1)


def report(results: Sequence[Result], clean: Sequence[Result]) -> str:
    """The table, and precision and recall below it."""
    lines = [f"{'fault':28} {'':5} {'first finding':28} {'sure':>5} {'s':>5}  others / expected"]
    for result in results:
        first = result.found[0] if result.found else "-"
        mark = "ok" if result.is_right else "found" if result.is_found else "MISS"
        rest = ", ".join(result.found[1:4])
        wanted = "" if result.is_right else f"  expected {' or '.join(result.expected)}"
        line = f"{result.name:28} {mark:5} {first:28} {result.confidence:5.0%} {result.seconds:5.1f}  {rest}{wanted}"
        lines += [line, *([f"    {result.problem.splitlines()[0]}"] if result.problem else [])]
    for result in clean:
        mark = "ALARM" if result.alarms else "quiet"
        said = ", ".join([*result.alarms, *(name for name in result.found if name not in result.alarms)]) or "-"
        lines += [f"{result.name:28} {mark:5} {said:28} {'':5} {result.seconds:5.1f}"]
        lines += [f"    {result.problem.splitlines()[0]}"] if result.problem else []
    right, found = sum(result.is_right for result in results), sum(result.is_found for result in results)
    named = sum(bool(result.found) for result in results)
    false = sum(bool(result.alarms) for result in clean)
    if results:
        lines.append(
            f"faults {len(results)}: recall {found / len(results):.3f} (named at all), first finding right "
            f"{right / len(results):.3f}, precision {right / max(named, 1):.3f} (of the first findings)"
        )
    if clean:
        lines.append(f"clean runs {len(clean)}: {false} with a finding at level error")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """0 where every fault was named and no clean run raised an alarm."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--only", default="", help="names of faults, with commas; a part of a name is enough")
    parser.add_argument("--part", default="", help="one folder of definitions, as first")
    parser.add_argument("--no-clean", action="store_true", help="leave the clean runs out")
    parser.add_argument("--clean-only", action="store_true", help="the clean runs alone")
    parser.add_argument("--home", type=Path, default=None, help="where the runs go; none: a new temporary folder")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once; more than half of the cores slow each down")
    parser.add_argument("--dry", action="store_true", help="diagnose nothing: only how each run ended, to try a plant")
    parser.add_argument("--json", type=Path, default=None, help="write the results there")
    arguments = parser.parse_args(argv)
    wanted = [name for name in arguments.only.split(",") if name]

    def is_wanted(fault: Fault) -> bool:
        return not wanted or any(name in fault.name for name in wanted)

    planted = [] if arguments.clean_only else [fault for fault in all_faults(arguments.part) if is_wanted(fault)]
    clean = [] if arguments.no_clean else [fault for fault in CLEAN if is_wanted(fault)]
    home = arguments.home or Path(tempfile.mkdtemp(prefix="oxrl-faults-"))
    _warm_up()
    by_name: dict[str, Result] = {}
    for result in _played([*planted, *clean], home, jobs=arguments.jobs, is_dry=arguments.dry):
        by_name[result.name] = result
        said = result.problem or result.ended or ", ".join(result.found) or "-"
        print(f"{result.name} ({result.seconds:.1f} s): {said}", file=sys.stderr, flush=True)
    results = [by_name[fault.name] for fault in (*planted, *clean)]
    if arguments.dry:
        return 1 if any(result.problem for result in results) else 0
    of_faults, of_clean = results[: len(planted)], results[len(planted) :]
    print(report(of_faults, of_clean))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(result) for result in results], indent=1))
    return 0 if all(one.is_found for one in of_faults) and not any(one.alarms for one in of_clean) else 1


def _played(wanted: Sequence[Fault], home: Path, *, jobs: int, is_dry: bool) -> Iterator[Result]:
    """The results as they come, of so many runs at once; each is a fork of a process that has loaded everything."""
    if jobs <= 1:
        yield from (play(fault, home, is_dry=is_dry) for fault in wanted)
        return
    context = multiprocessing.get_context("fork")
    _shared.update({fault.name: fault for fault in wanted})  # plants are functions, which no pipe carries
    with context.Pool(jobs) as pool:
        yield from pool.imap_unordered(_play_by_name, [(fault.name, home, is_dry) for fault in wanted])


_shared: dict[str, Fault] = {}  # what the forks of _played find in their memory


def _play_by_name(asked: tuple[str, Path, bool]) -> Result:
    name, home, is_dry = asked
    return play(_shared[name], home, is_dry=is_dry)


def _warm_up() -> None:
    """Loads everything heavy once: the runs are forks of this process."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a pool of threads would not survive the fork
    from oxrl_core.engine.environment import engine_environment

    os.environ.update({name: value for name, value in engine_environment().items() if name not in os.environ})
    for package in ("engine", "models", "data", "rollout", "train"):
        parent = importlib.import_module(f"oxrl_core.{package}")
        for module in pkgutil.iter_modules(parent.__path__, f"oxrl_core.{package}."):
            # vLLM starts threads when it is imported, and these runs do not use it.
            if module.name not in ("oxrl_core.rollout.vllm_worker", "oxrl_core.train.torchrun"):
                importlib.import_module(module.name)
    for name in LOADED_LATE:
        importlib.import_module(name)


if __name__ == "__main__":
    sys.exit(main())
