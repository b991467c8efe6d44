"""The GPUs of this machine, from nvidia-smi's own words."""

from __future__ import annotations

import pytest

from oxrl_core.config.machine import read_gpus

SMI = """\
0, NVIDIA H200, 143771, 143009, 580.65.06, 9.0, GPU-aaaa1111
1, NVIDIA H200, 143771, 1024, 580.65.06, 9.0, GPU-bbbb2222
2, NVIDIA GB10, [N/A], [N/A], 580.65.06, 12.1, GPU-cccc3333
"""


def test_gpus_are_read_from_the_drivers_answer() -> None:
    first, second, third = read_gpus(SMI, None)
    assert (first.name, first.memory_gib, first.free_gib) == ("NVIDIA H200", 143771 / 1024, 143009 / 1024)
    assert second.compute_capability == "9.0"
    assert third.memory_gib == 0.0, "a GPU that shares the host's memory reports none of its own"


@pytest.mark.parametrize(
    ("visible", "expected"), [("1", [1]), ("GPU-aaaa1111", [0]), ("0,2", [0, 2]), ("", []), (None, [0, 1, 2])]
)
def test_hidden_gpus_are_not_there(visible: str | None, expected: list[int]) -> None:
    assert [gpu.index for gpu in read_gpus(SMI, visible)] == expected
