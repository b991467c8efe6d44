"""What holds the house together: the torch line, the size of the loops, and the wheel."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "ray", "vllm", "deepspeed", "transformers", "peft", "datasets", "accelerate", "pyarrow", "numpy"}
ABOVE = [
    "oxrl",
    "oxrl_core.api",
    "oxrl_core.diagnose.diagnosis",
    "oxrl_core.cli",
    "oxrl_core.demo",
    "oxrl_core.config.load",
    "oxrl_core.config.check",
    "oxrl_core.algorithms.base",
    "oxrl_core.rewards.base",
    "oxrl_core.datasets.base",
    "oxrl_core.runs.supervision.supervise",
    "oxrl_core.runs.machine.doctor",
    "mcp_server.server",
    "swarm.scout",
    "swarm.configure",
]


def test_nothing_above_the_torch_line_loads_anything_heavy():
    program = (
        "import importlib, json, sys\n"
        f"for name in {ABOVE}: importlib.import_module(name)\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert HEAVY.isdisjoint(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("loop", ["rl.py", "sl.py"])
def test_a_loop_stays_under_a_hundred_lines(loop):
    assert len((ROOT / "oxrl_core" / "train" / loop).read_text().splitlines()) < 100


def test_backward_is_called_in_one_place():
    callers = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "oxrl_core").rglob("*.py")
        if ".backward(" in path.read_text() and "engine" not in path.parts
    ]
    # The deep check of the doctor compares DeepSpeed with plain AdamW on a model of its own.
    assert sorted(callers) == ["oxrl_core/train/deep_check.py", "oxrl_core/train/step.py"]


def test_the_wheel_holds_recipes_models_and_topics(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        timeout=120,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = [
        *ROOT.glob("registry/**/*.yaml"),
        *ROOT.glob("oxrl_core/**/*.yaml"),
        *ROOT.glob("oxrl_core/cli/topics/*.md"),
    ]
    assert len(sources) > 5
    assert {path.relative_to(ROOT).as_posix() for path in sources} <= names
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)
