"""One attack of every class, with canaries: no score, no leak, nothing touched, and the sandbox goes on."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml

from oxrl_core.rewards.sandbox.pool import Deadline, Stopped

TABLE = yaml.safe_load((Path(__file__).parent / "attack_table.yaml").read_text())
TABLE["resource"]["huge_source"] *= 100_000
FORMS = ["calls", "asserts", "script", "check", "program"]
SECONDS = 1.0


def test_the_table_holds_every_class():
    assert {kind: len(attacks) for kind, attacks in TABLE.items()} == {"verdict": 18, "host": 22, "resource": 24}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", TABLE["verdict"])
def test_a_verdict_cannot_be_forged(name, form, score, tasks):
    verdict = score(TABLE["verdict"][name], tasks[form])
    assert (verdict.value, verdict.status) == (0.0, "ok")
    assert score(TABLE["verdict"][name], tasks[form], partial=True).value == 0.0


@pytest.mark.parametrize("name", TABLE["host"])
def test_the_host_stays_untouched(name, sandbox, canaries, score, tasks):
    program = canaries.fill(TABLE["host"][name])
    with sandbox.solution(program, deadline=Deadline(10)) as (solution, said):
        assert said == ["ready"]
        try:
            answer = str(solution.call("solve", [1], {}))
        except Stopped as stopped:
            answer = stopped.why
    assert canaries.secret not in answer and canaries.secret.encode().hex() not in answer
    assert "LEAK" not in answer
    assert score(program, tasks["calls"]).value == 0.0
    printed = sandbox.run_program(f"{program}\nprint(solve(1))", "", deadline=Deadline(10)).output.decode()
    assert canaries.secret not in printed and "LEAK" not in printed
    canaries.check()


@pytest.mark.parametrize("form", ["calls", "script", "program"])
@pytest.mark.parametrize("name", TABLE["resource"])
def test_a_bomb_ends_by_its_deadline_and_the_sandbox_goes_on(name, form, score, tasks, answers, sandbox):
    program = TABLE["resource"][name]
    if form == "program":
        program += "\nprint(solve(1))"
    level = sandbox.level  # starts it, which is not what is timed
    started = time.monotonic()
    verdict = score(program, tasks[form], seconds=SECONDS)
    assert time.monotonic() - started < SECONDS + 1.6
    assert (verdict.status, verdict.value) == ("ok", 0.0)
    good = f"def solve(n): return {answers}[n]"
    assert score(good, tasks["calls"]).value == 1.0
    assert sandbox.level is level
