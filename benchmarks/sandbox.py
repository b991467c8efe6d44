"""What one execution of a model's program costs in the sandbox, against a plain, unprotected `python file` for each.

    python benchmarks/sandbox.py [--rounds 300] [--limit-ms 8] [--least-per-second 100]

One judge, one execution at a time, on one core where the system lets a process choose. Both are measured in turns, so
that a busy machine slows both; the processor time (judge, fork server and children) hardly depends on company, and its
inverse is what one core can do. "fast" is the interpreter tier, where pydantic-monty is installed; the other forms do
without it. Past a limit (p50 of the wall time, executions a second of processor time) the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from oxrl_core.rewards.code import code
from oxrl_core.rewards.sandbox.fast import interpreter_version, shared_interpreter
from oxrl_core.rewards.sandbox.pool import shared_sandbox
from oxrl_core.types import Prompt, Rollout

SOLUTION = "def common(a, b):\n    return sorted(set(a) & set(b))\n"
CASES = [([1, 4, 3, 34, 653, 2, 5], [5, 7, 1, 5, 9, 653], [1, 5, 653]), ([5, 3, 2], [3, 2], [2, 3]), ([], [1], [])]
ROWS = {
    "calls": {"tests": [{"function": "common", "args": [a, b], "expected": c} for a, b, c in CASES]},
    "check": {
        "prompt": "def common(a, b):\n    '''Sorted unique common elements.'''\n",
        "test": "def check(candidate):\n" + "".join(f"    assert candidate({a}, {b}) == {c}\n" for a, b, c in CASES),
        "entry_point": "common",
    },
    "test code": {  # not asserts of calls alone: it runs in a process of its own
        "prompt": "def common(a, b):\n    '''Sorted unique common elements.'''\n",
        "test": "def check(candidate):\n"
        + "".join(f"    assert list(candidate({a}, {b})) == {c}\n" for a, b, c in CASES),
        "entry_point": "common",
    },
    "program": {"inputs": ["3 1\n"], "outputs": ["1 3\n"]},
}
FAST = {"fast calls": "calls", "fast program": "program"}
PROGRAM = "print(*sorted(map(int, input().split())))\n"


def rollout_for(form: str) -> Rollout:
    """A right completion of the task in that form."""
    program = PROGRAM if form == "program" else SOLUTION
    text = f"```python\n{program}```"
    return Rollout(Prompt(f"benchmark/{form}/0", [], "", row=ROWS[form]), 0, [], [], "stop", 0, 0, text)


def processor_seconds() -> float:
    """What this process, the fork server, and every child that has ended have used so far."""
    times = os.times()
    total = times.user + times.system + times.children_user + times.children_system
    pids = [one.pid for one in (shared_sandbox().process, shared_interpreter().process) if one]
    for pid in pids:
        folder = Path(f"/proc/{pid}")
        fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
        total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
        pids += map(int, (folder / "task" / str(pid) / "children").read_text().split())
    return total


def seconds_in_sandbox(rollout: Rollout, *, fast: bool) -> float:
    """Wall seconds of one verdict."""
    started = time.perf_counter()
    verdict = code(rollout, interpreter=fast)
    seconds = time.perf_counter() - started
    assert verdict.value == 1.0, verdict.detail
    assert fast == verdict.detail.endswith("monty"), verdict.detail
    return seconds


def seconds_plain(folder: Path) -> float:
    """Wall seconds of the way that protects nothing: solution and tests in one file, a new interpreter for it."""
    started = time.perf_counter()
    path = folder / "solution.py"
    asserts = "".join(f"assert common({a}, {b}) == {c}\n" for a, b, c in CASES)
    path.write_text(SOLUTION + asserts)
    subprocess.run([sys.executable, str(path)], check=True, capture_output=True, timeout=60)
    return time.perf_counter() - started


def main() -> int:
    """The exit code: 0 where every form is within the limits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--limit-ms", type=float, default=8.0)
    parser.add_argument("--least-per-second", type=float, default=100.0)
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # the fork server and its children inherit it
    fast = FAST if interpreter_version() else {}
    rollouts = {form: rollout_for(fast.get(form, form)) for form in [*ROWS, *fast]}
    taken: dict[str, list[float]] = {form: [] for form in [*rollouts, "plain"]}
    used = dict.fromkeys(taken, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        for form, rollout in rollouts.items():
            seconds_in_sandbox(rollout, fast=form in fast)  # the first one starts the fork server
        seconds_plain(Path(folder))
        before = processor_seconds()
        for _ in range(arguments.rounds):
            for form, seconds in taken.items():
                is_plain = form == "plain"
                seconds.append(
                    seconds_plain(Path(folder)) if is_plain else seconds_in_sandbox(rollouts[form], fast=form in fast)
                )
                now = processor_seconds()
                used[form], before = used[form] + now - before, now
    held = f"{shared_sandbox().level}; {shared_interpreter().describe()}"
    print(f"sandbox: {held}; {arguments.rounds} rounds on one core")
    plain = statistics.median(taken["plain"])
    is_within = True
    for form, seconds in taken.items():
        median, late = statistics.median(seconds), sorted(seconds)[int(0.95 * len(seconds))]
        processor = used[form] / len(seconds)
        print(
            f"{form:12} p50 {median * 1e3:6.2f} ms  p95 {late * 1e3:6.2f} ms  {len(seconds) / sum(seconds):4.0f}/s  "
            f"processor {processor * 1e3:5.2f} ms, {1 / processor:4.0f}/s  {plain / median:5.2f} times as fast as plain"
        )
        if form != "plain":
            is_within &= median * 1e3 <= arguments.limit_ms and 1 / processor >= arguments.least_per_second
    return 0 if is_within else 1


if __name__ == "__main__":
    sys.exit(main())
