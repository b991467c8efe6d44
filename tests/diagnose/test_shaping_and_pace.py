"""What is made of the verdicts, what is written after a step, and what a resume changes: hand-made records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from oxrl_core.diagnose.diagnosis import diagnose
from oxrl_core.diagnose.views import Finding
from oxrl_core.runs.rundir import RunDir

Make = Callable[..., RunDir]
Rows = Callable[..., list[dict[str, Any]]]
Recorded = Callable[..., dict[str, Any]]


def found(run: RunDir) -> dict[str, Finding]:
    return {finding.cause: finding for finding in diagnose(run).findings}


@pytest.mark.parametrize(
    ("overrides", "shaped", "is_told"),
    [
        ([], lambda verdict: verdict, False),
        ([], lambda _: 0.0, True),
        ([], lambda verdict: -verdict, True),
        (["rollout.stop_at_eos=true", "reward.overlong_buffer=2"], lambda verdict: verdict - 0.5, False),
        (["rollout.stop_at_eos=true", "reward.overlong_buffer=2"], lambda verdict: verdict + 0.5, True),
        (["reward.normalize=running"], lambda verdict: 3 * verdict - 1, False),
        (["reward.clip=0.1"], lambda verdict: 0.1, False),
    ],
)
def test_what_is_learned_from_is_the_verdict_less_the_penalties(
    overrides: list[str], shaped: Callable[[float], float], is_told: bool, hand_made: Make, rl_rows: Rows
) -> None:
    rows = rl_rows(reward__mean=lambda s: 0.2 + 0.02 * s, reward__shaped=lambda s: shaped(0.2 + 0.02 * s))
    assert ("shaped_reward" in found(hand_made(overrides=overrides, metrics=rows))) is is_told


def test_a_reward_that_falls_step_by_step_until_nothing_is_left(
    hand_made: Make, rl_rows: Rows, recorded: Recorded
) -> None:
    def run(level: Callable[[int], float]) -> RunDir:
        rows = rl_rows(reward__mean=level, reward__std=lambda s: 0.2 if level(s) else 0.0)
        rollouts = {
            step: [
                recorded(step, place, completion_text=f"{step} {place}", score=float(place < 16 * level(step)))
                for place in range(16)
            ]
            for step in range(1, 31)
        }
        return hand_made(metrics=rows, rollouts=rollouts)

    led_away = found(run(lambda s: max(0.0, round(0.8 - 0.1 * s, 9))))
    assert "falls from 0.6 to 0" in led_away["reward_falls"].summary and "reward_zero" not in led_away
    broken = found(run(lambda s: 0.8 if s < 8 else 0.0))
    assert "reward_zero" in broken


def test_what_is_written_after_a_step_counts_as_its_time(hand_made: Make, rl_rows: Rows) -> None:
    parts = {"time__generate": 0.5, "time__train": 0.4, "time__sync": 0.05}
    rows = rl_rows(**parts, time__write=lambda s: 0.02 if s < 15 else 4.0)
    seen = found(hand_made(metrics=rows))["slow_step"]
    assert "steps take 4.9 times as long" in seen.summary and "time/write" in seen.summary
    now_and_then = rl_rows(**parts, time__write=lambda s: 4.0 if s % 5 == 0 else 0.02)  # a checkpoint
    assert "slow_step" not in found(hand_made(metrics=now_and_then))


def test_another_number_of_tokens_after_a_resume(hand_made: Make, rl_rows: Rows) -> None:
    resumed = [{"level": "info", "code": "resumed", "message": "goes on", "checkpoint": "step_00000015"}]
    rows = rl_rows(num_tokens=lambda s: (512 if s <= 15 else 32) + s % 3)
    assert "num_tokens" in found(hand_made(metrics=rows, events=resumed))["resume_jump"].summary
    rows = rl_rows(num_tokens=lambda s: 512 + s % 3)
    assert "resume_jump" not in found(hand_made(metrics=rows, events=resumed))
