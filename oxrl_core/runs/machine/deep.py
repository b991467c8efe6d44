"""One real step of Ray, DeepSpeed and vLLM, each in a process of its own with a deadline."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

import psutil

from oxrl_core.runs.machine.packages import ENVIRONMENT_SCRIPT
from oxrl_core.runs.views import EnvironmentItem

DEEP_CHECK_MODULE = "oxrl_core.train.deep_check"  # spawned by name: it imports torch
# Several times what it took on two CPU cores: Ray 9 s, DeepSpeed 11 s, vLLM 38 s.
DEEP_DEADLINE_SECONDS: dict[str, float] = {"ray": 180.0, "deepspeed": 180.0, "vllm": 300.0}


def check_deep(profile: str) -> list[EnvironmentItem]:
    """One real step of each engine, each in a process of its own with a deadline."""
    if profile == "core":
        return [
            EnvironmentItem(
                group="deep",
                name="engines",
                ok=False,
                needed=True,
                value="not tried: no training stack",
                fix=f"{ENVIRONMENT_SCRIPT} in the repository",
            )
        ]
    engines = ["ray", "deepspeed"] if sys.platform == "linux" else ["ray"]
    if profile in ("cpu", "gpu"):
        engines.append("vllm")
    return [run_deep_check(engine, DEEP_DEADLINE_SECONDS[engine]) for engine in engines]


def run_deep_check(engine: str, deadline_seconds: float) -> EnvironmentItem:
    """The verdict of one engine's one-step run; its processes are gone afterwards."""
    started = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, "-m", DEEP_CHECK_MODULE, engine],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(timeout=deadline_seconds)
        except subprocess.TimeoutExpired:
            _end(process)
            value = f"no answer within {deadline_seconds:.0f} s"
        else:
            value = ""
        output.seek(0)
        text = output.read().decode("utf-8", "replace")
    seconds = time.monotonic() - started
    verdict = _last_json_line(text)
    if not value and process.returncode == 0 and verdict.get("ok") is True:
        return EnvironmentItem(
            group="deep", name=engine, needed=True, value=f"{verdict.get('value', 'one step')} in {seconds:.0f} s"
        )
    if not value:
        last = [line for line in text.strip().splitlines() if line.strip()]
        value = str(verdict.get("value") or (last[-1] if last else f"ended with exit code {process.returncode}"))[:300]
    command = shlex.join([sys.executable, "-m", DEEP_CHECK_MODULE, engine])
    return EnvironmentItem(
        group="deep", name=engine, ok=False, needed=True, value=value, fix=f"read its whole output: {command}"
    )


def _last_json_line(text: str) -> dict[str, Any]:
    """The verdict, which is the last line that is a JSON object; engines print their own lines around it."""
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            try:
                return json.loads(line)
            except json.JSONDecodeError:
                continue
    return {}


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kills the process with everything below it: engines start sessions of their own, so one group is not enough."""
    try:
        family = [*psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    with contextlib.suppress(ProcessLookupError):  # it may leave between the deadline and here
        os.killpg(process.pid, signal.SIGKILL)
    for child in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait(timeout=30)
