"""The deep checks: one real step of every engine, and nothing left of one that hangs."""

from __future__ import annotations

import time

import psutil
import pytest

from oxrl_core.runs.machine import deep
from oxrl_core.runs.machine.packages import installed_profile, installed_version


@pytest.mark.engine
@pytest.mark.parametrize("engine", ["ray", "deepspeed", "vllm"])
def test_a_deep_check_is_a_real_step(engine: str) -> None:
    if engine == "vllm" and installed_profile() not in ("cpu", "gpu"):
        assert installed_version("vllm") is None
        return
    found = deep.run_deep_check(engine, deep.DEEP_DEADLINE_SECONDS[engine])
    assert found.ok, found.value
    assert engine in found.value


def test_a_deep_check_that_hangs_is_ended_with_all_its_processes() -> None:
    started = time.monotonic()
    found = deep.run_deep_check("ray", 2.0)
    assert time.monotonic() - started < 20
    assert not found.ok
    assert "no answer within 2 s" in found.value
    assert found.fix
    assert not [
        child for child in psutil.Process().children(recursive=True) if "deep_check" in " ".join(child.cmdline())
    ]


def test_a_deep_check_of_nothing_known_is_refused() -> None:
    found = deep.run_deep_check("nothing", 60.0)
    assert not found.ok
    assert "usage" in found.value
