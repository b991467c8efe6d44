"""Which patches stay in force, and when the Bugfixer stops: rows of attempts with literal outcomes."""

from __future__ import annotations

from pathlib import Path

import pytest

from oxrl_core.config.requirements import Problem
from oxrl_core.diagnose.views import Change
from oxrl_core.runs.rundir import RunDir
from swarm.bugfix.attempts import Attempt, read_attempts, write_attempt
from swarm.bugfix.outcome import Outcome
from swarm.bugfix.repair import Decision, NeedsInput, Work, _next, _verdict, active_after

CONFIG = "run: {name: a, backend: local}\nmodel: {path: 'miniature:chars'}\ndata: {train: copy3}\n"
SMALLER = Change(path="train.micro_batch_tokens", old=8192, new=4096, why="", risk="S")
CHECKPOINTING = Change(path="model.gradient_checkpointing", old=False, new=True, why="", risk="S")


def failure(place: tuple[int, int, int], what: str = "CUDA out of memory") -> Outcome:
    return Outcome(False, place, "training", "RuntimeError", what)


def attempt(number: int, change: Change | None, outcome: Outcome, verdict: str, active: list[Change]) -> Attempt:
    changes = [change] if change else []
    return Attempt.model_validate(
        {"number": number, "stage": "real", "source": "rules" if change else "first", "changes": changes,
         "active": active, "outcome": outcome.as_dict(), "verdict": verdict}
    )  # fmt: skip


def test_a_patch_stays_where_the_failure_comes_later_or_is_another() -> None:
    row = attempt(1, SMALLER, failure((2, 3, 0)), "", [SMALLER])
    assert _verdict(failure((2, 3, 0)), failure((2, 1, 0)), row) == "kept"
    assert _verdict(failure((2, 1, 0), "no space"), failure((2, 1, 0)), row) == "kept"
    assert _verdict(failure((2, 1, 0)), failure((2, 1, 0)), row) == "rolled_back"
    assert _verdict(failure((1, 0, 0), "no space"), failure((2, 1, 0)), row) == "rolled_back"


def test_numbers_in_a_text_make_no_other_failure() -> None:
    one, two = failure((2, 1, 0), "tried to allocate 2.00 GiB"), failure((2, 1, 0), "tried to allocate 1.50 GiB")
    assert one.fingerprint == two.fingerprint


def test_what_was_taken_back_is_not_in_force() -> None:
    rows = [
        attempt(0, None, failure((2, 1, 0)), "kept", []),
        attempt(1, SMALLER, failure((2, 1, 0)), "rolled_back", [SMALLER]),
        attempt(2, CHECKPOINTING, failure((2, 5, 0)), "kept", [CHECKPOINTING]),
    ]
    assert active_after(rows) == [CHECKPOINTING]
    assert active_after(rows[:2]) == []


def work(run: RunDir, decisions: tuple[Decision, ...] = (), max_attempts: int = 3) -> Work:
    return Work(run, "real", CONFIG, (), max_attempts, lambda _: [], lambda _a, _b: None, decisions=decisions)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create_from_parts(tmp_path, "onboard-a", "onboard: {}\n", {"kind": "onboard"})


def test_it_stops_when_the_failure_comes_earlier_twice_and_when_its_attempts_are_spent(run: RunDir) -> None:
    back = [
        attempt(0, None, failure((2, 9, 0)), "kept", []),
        attempt(1, SMALLER, failure((2, 5, 0), "a"), "rolled_back", [SMALLER]),
        attempt(2, CHECKPOINTING, failure((2, 1, 0), "b"), "rolled_back", [CHECKPOINTING]),
    ]
    with pytest.raises(NeedsInput, match="came earlier twice"):
        _next(work(run, max_attempts=9), back)
    with pytest.raises(NeedsInput, match="2 attempts were made"):
        _next(
            work(run, max_attempts=2),
            [back[0], *[row.model_copy(update={"outcome": back[0].outcome}) for row in back[1:]]],
        )


def test_a_decision_of_the_caller_is_the_next_attempt_once(run: RunDir) -> None:
    first = attempt(0, None, Outcome(False, problems=[Problem(code="x", what="never heard of")]), "kept", [])
    write_attempt(run, first)
    chosen = _next(work(run, (Decision(("train.micro_batch_tokens=4096",), "try"),)), [first])
    assert chosen is not None and chosen.source == "caller" and chosen.active[0].new == 4096 and chosen.steering == 1
    write_attempt(run, chosen.model_copy(update={"outcome": first.outcome, "verdict": "kept"}))
    with pytest.raises(NeedsInput, match="no rule knows"):
        _next(work(run, (Decision(("train.micro_batch_tokens=4096",), "try"),)), read_attempts(run))


def test_after_a_whole_run_there_is_no_next_attempt(run: RunDir) -> None:
    assert _next(work(run), [attempt(0, None, Outcome(True, (4, 0, 0)), "kept", [])]) is None
