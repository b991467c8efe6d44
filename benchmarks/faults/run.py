"""Runs the planted faults and the clean runs, diagnoses each, and counts who was right."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import faults
from benchmarks.faults.clean import CLEAN
from benchmarks.faults.define import Fault
from oxrl_core.diagnose.diagnosis import diagnose
from oxrl_core.diagnose.views import Diagnosis
from oxrl_core.runs import launch
from oxrl_core.runs.records import write_json
from oxrl_core.runs.rundir import RunDir

# What a run imports when it first needs it: each fork would pay for it again.
LOADED_LATE = (
    "deepspeed", "deepspeed.runtime.engine", "deepspeed.runtime.zero.stage_1_and_2", "torch._dynamo", "pyarrow.parquet",
    "torch._inductor.compile_fx", "networkx", "deepspeed.module_inject",
    "transformers.models.qwen2.modeling_qwen2", "transformers.models.llama.modeling_llama",
    "transformers.models.auto.modeling_auto", "transformers.generation", "transformers.tokenization_utils_tokenizers",
)  # fmt: skip
NOT_PLANTED = "not-planted.txt"
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


def play(fault: Fault, home: Path) -> Result:
    """The result of one fault: its run, and what the diagnosis says of it."""
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
        if fault.supervised:
            # A run with a command of its own is never started again by itself; these may be, as a true one.
            write_json(run.path / "spec.json", run.spec() | {"max_restarts": loaded.config.run.max_restarts})
            _supervised(fault, run)
        else:
            _forked(fault, run)
        if fault.after is not None:
            fault.after(run)
        diagnosis = diagnose(run)
    except Exception as error:  # one fault that cannot be planted must not keep the others from running
        problem = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
        seconds = time.monotonic() - began
        return Result(fault.name, fault.planted, sorted(fault.expected), [], [], 0.0, seconds, path, problem)
    return _result(fault, diagnosis, time.monotonic() - began, path)


def _result(fault: Fault, diagnosis: Diagnosis, seconds: float, path: str) -> Result:
    said = [finding for finding in diagnosis.findings if finding.severity != "info" or finding.cause in fault.expected]
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
    parser.add_argument("--json", type=Path, default=None, help="write the results there")
    arguments = parser.parse_args(argv)
    wanted = [name for name in arguments.only.split(",") if name]

    def is_wanted(fault: Fault) -> bool:
        return not wanted or any(name in fault.name for name in wanted)

    planted = [] if arguments.clean_only else [fault for fault in all_faults(arguments.part) if is_wanted(fault)]
    clean = [] if arguments.no_clean else [fault for fault in CLEAN if is_wanted(fault)]
    home = arguments.home or Path(tempfile.mkdtemp(prefix="oxrl-faults-"))
    _warm_up()
    results: list[Result] = []
    for fault in (*planted, *clean):
        results.append(play(fault, home))
        print(f"{fault.name}: {', '.join(results[-1].found) or '-'}", file=sys.stderr, flush=True)
    of_faults, of_clean = results[: len(planted)], results[len(planted) :]
    print(report(of_faults, of_clean))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(result) for result in results], indent=1))
    return 0 if all(one.is_found for one in of_faults) and not any(one.alarms for one in of_clean) else 1


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
