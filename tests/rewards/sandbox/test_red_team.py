"""Hundreds of tricks of a model that is paid for passing tests: none is paid."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

DATA = yaml.safe_load((Path(__file__).parent / "red_team.yaml").read_text())
ATTACKS = {f"{family['name']} {value}": (family, value) for family in DATA["families"] for value in family["values"]}
PROGRAMS = {name: family["template"].replace("@", value) for name, (family, value) in ATTACKS.items()}
PROGRAMS |= {f"program {number}": program for number, program in enumerate(DATA["programs"])}


def test_there_are_at_least_two_hundred():
    assert len(set(PROGRAMS.values())) == len(PROGRAMS) >= 200


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_trick_is_not_paid(name, score, tasks, sandbox):
    level = sandbox.level
    for form, task in tasks.items():
        verdict = score(PROGRAMS[name], task, seconds=3.0, partial=True)
        assert verdict.value == 0.0, (form, verdict)
        assert verdict.status in ("ok", "no_answer"), (form, verdict)
    assert sandbox.level is level


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name.startswith("get out by")])
def test_a_way_out_is_closed(name, sandbox):
    from oxrl_core.rewards.sandbox.pool import Deadline

    assert b"OUT" not in sandbox.run_program(PROGRAMS[name], "", deadline=Deadline(5)).output
