"""What a command costs before it does anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

HEAVY = (
    "torch",
    "ray",
    "vllm",
    "deepspeed",
    "transformers",
    "numpy",
    "datasets",
    "pyarrow",
    "matplotlib",
    "mcp",
    "rich",
)


def cpu_seconds(*arguments: str) -> float:
    """CPU time of the quickest of three processes: other programs on the machine do not count in it."""
    times: list[float] = []
    for _ in range(3):
        process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        process.returncode = 0
        times.append(usage.ru_utime + usage.ru_stime)
    return min(times)


def test_help_costs_little_more_than_the_argument_parser() -> None:
    assert cpu_seconds("-m", "oxrl", "--help") < 1.5 * cpu_seconds("-c", "import typer") + 0.05


def test_nothing_heavy_is_imported_for_the_command_line(spawn: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    program = "import json, sys, oxrl, oxrl_core.cli; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(spawn("-c", program).stdout)
    assert not {name for name in loaded if name.split(".")[0] in (*HEAVY, "pydantic", "yaml", "psutil")}


def test_no_command_that_reads_imports_anything_heavy(
    spawn: Callable[..., subprocess.CompletedProcess[str]], run_id: str
) -> None:
    program = f"""
import sys
from oxrl_core.cli import main
for line in ("run list", "run show {run_id}", "run metrics {run_id}", "run logs {run_id}", "algorithms", "rewards",
             "datasets", "examples", "config schema", "doctor", "agent-docs", "mcp config"):
    code = main([*line.split(), "--format", "agent"])
    assert code == 0 or line == "doctor", (line, code)
print("LOADED", sorted({{name.split(".")[0] for name in sys.modules}} & set({HEAVY!r})))
"""
    done = spawn("-c", program)
    assert done.stdout.splitlines()[-1] == "LOADED []", done.stderr
