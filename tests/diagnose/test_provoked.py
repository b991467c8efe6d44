"""Signatures against the installed libraries: each failure is made to happen, and is found by its text."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from oxrl_core.diagnose.logs import search_text
from oxrl_core.diagnose.tables import all_signatures

PROVOKE = Path(__file__).parent / "provoke.py"
EXPECTED = {
    "torch": 15,
    "transformers": 12,
    "hub": 3,
    "datasets": 7,
    "trl": 3,
    "deepspeed": 4,
    "vllm": 9,
    "ray": 4,
}

LEFT_BEHIND = ("RANK", "WORLD_SIZE", "LOCAL_", "CROSS_", "MASTER_", "ACCELERATE_", "TORCHELASTIC_", "FSDP_")


def test_every_signature_is_provoked_or_named_as_one_that_needs_other_machines() -> None:
    assert sum(EXPECTED.values()) == 57
    left_out = set(
        re.findall(r"\b[a-z]+(?:_[a-z]+)+\b|\becc\b", PROVOKE.read_text().split("Not provoked")[1].split('"""')[0])
    )
    files = "".join(path.read_text() for path in PROVOKE.parent.glob("provoke_*.py"))
    provoked = set(re.findall(r'@provokes\("\w+", "(\w+)"\)', files))
    assert len(provoked) == 57 and provoked | left_out == set(all_signatures()) and not provoked & left_out


@pytest.mark.engine
@pytest.mark.parametrize("group", EXPECTED)
def test_what_the_library_says_is_found(group: str) -> None:
    # Not what earlier tests of this process left behind: libraries read ranks and settings from the environment.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(LEFT_BEHIND)}
    environment["PYTHONPATH"] = str(PROVOKE.parents[2])
    done = subprocess.run(
        [sys.executable, str(PROVOKE), group], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(said) == EXPECTED[group], done.stderr[-3000:]
    wrong: dict[str, str] = {}
    for one in said:
        verdict = search_text(one["text"])
        wrapped = [hit.id for hit in verdict.wrappers]
        found = wrapped if all_signatures()[one["id"]].is_wrapper else [verdict.root.id if verdict.root else ""]
        if one["id"] not in found:
            wrong[one["id"]] = f"found {found}: {one['text'][-600:]}"
    assert not wrong, json.dumps(wrong, indent=1)
