"""`oxrl onboard`, `oxrl steer` and `oxrl verify`: what they refuse, and how a verification looks."""

from __future__ import annotations

import io
from collections.abc import Callable

from rich.console import Console

from oxrl_core.cli.commands.onboard import draw_queue, draw_verification
from swarm.onboard.criteria import Criterion, Verification
from swarm.onboard.queue import QueueView, Result

Oxrl = Callable[..., tuple[int, str, str]]


def shown(parts: object) -> str:
    console = Console(file=io.StringIO(), width=80)
    for part in parts:  # pyright: ignore[reportGeneralTypeIssues]
        console.print(part)
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_one_model_or_a_queue_is_named(oxrl: Oxrl):
    for words in ((), ("a/b", "--all"), ("--queue", "/no/such/file.yaml")):
        code, _, error = oxrl("onboard", *words)
        assert code == 2 and "next:" in error


def test_an_unknown_task_is_refused_with_the_known_ones(oxrl: Oxrl):
    code, _, error = oxrl("onboard", "miniature:phi-4", "--task", "maths")
    assert code == 2 and "did you mean" in error.lower() and "preference" in error


def test_only_an_onboarding_that_exists_can_be_steered(oxrl: Oxrl):
    code, _, error = oxrl("steer", "nothing", "retry")
    assert code == 2 and "next:" in error
    code, _, error = oxrl("steer", "nothing", "dance")
    assert code == 2 and "retry or give_up" in error


def test_a_verification_shows_its_verdict_its_level_and_every_criterion():
    one = Criterion(name="reload", passed=True, value="equal", limit="equal", evidence="final/")
    view = Verification(
        model="a/b", level="miniature", verified=True, run_id="r", config_hash="c", criteria=[one], wall_seconds=3.0
    )
    text = shown(draw_verification(view))
    assert "verified at level miniature" in text and "reload" in text and max(map(len, text.splitlines())) <= 80


def test_a_queue_shows_what_came_of_each_model():
    result = Result(model="a/b", state="finished", level="full", seconds=7.0, run_id="r-1")
    text = shown(draw_queue(QueueView(name="q", results=[result], waiting=["c/d"])))
    assert "a/b" in text and "full" in text and "1 waiting" in text
