"""A composite of which a judge or a reward model is a part: what it adds up, and what no verdict of a part means."""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from oxrl_core.bench.judge_server import judge_server
from oxrl_core.rewards.base import Reward, get_reward, score_rollouts
from oxrl_core.rewards.composite import Together
from oxrl_core.types import Metrics, Prompt, Rollout, Score


def group(*texts: str, task: str = "420>", answer: str = "024", row: int = 0) -> list[Rollout]:
    prompt = Prompt(f"test/train/{row}", [1], task, answer)
    return [Rollout(prompt, index, [1], [0.0], "stop", 0, 0, text=text) for index, text in enumerate(texts)]


def with_judge(url: str, *others: dict[str, Any], weight: float = 2.0, **params: Any) -> Reward:
    asked = {"url": url, "model": "tiny", "cache": "off", "retries": 0} | params
    return get_reward("composite", {"parts": [{"name": "judge", "weight": weight, "params": asked}, *others]})


def service_of(reward: Reward) -> Together:
    assert isinstance(reward.service, Together)
    return reward.service


@pytest.fixture
def url() -> Iterator[str]:
    with judge_server() as address:
        yield address


STOPPED = {"name": "stopped", "weight": 0.5}


def test_a_judge_and_functions_are_added_by_their_weights(url: str) -> None:
    reward = with_judge(url, STOPPED, {"name": "format", "weight": 4.0})
    try:
        scores = score_rollouts(reward, [*group("024", "021", "0xx"), *group("024", "024", row=1)], 60)
    finally:
        service_of(reward).close()
    # By the judge's wins, doubled: 2 of 2, 1 of 2, 0 of 2; the twins of the second prompt a half each. Each stopped by
    # itself (0.5), and has of `format` that it stopped and that it begins with no I: 0.5 of 1, times 4.
    assert [score.value for score in scores] == [4.5, 3.5, 2.5, 3.5, 3.5]
    assert [score.parts["judge"] for score in scores] == [1.0, 0.5, 0.0, 0.5, 0.5]
    assert all(score.parts["stopped"] == 1.0 and score.parts["format"] == 0.5 for score in scores)
    assert scores[0].parts["judge/judged"] == 2.0
    assert {score.status for score in scores} == {"ok"}


def test_a_judge_that_cannot_be_asked_leaves_the_whole_without_a_verdict() -> None:
    reward = with_judge("http://127.0.0.1:9/v1", STOPPED)
    try:
        scores = score_rollouts(reward, group("024", "021"), 30)
    finally:
        service_of(reward).close()
    assert [score.status for score in scores] == ["error", "error"]
    assert all(math.isnan(score.value) and score.parts == {"stopped": 1.0} for score in scores)
    assert scores[0].detail.startswith("judge: ")


def test_a_function_that_fails_leaves_the_whole_without_a_verdict_too(url: str) -> None:
    reward = with_judge(url, {"name": "gsm8k"})
    try:
        scores = score_rollouts(reward, group("1", "2", answer=""), 60)
    finally:
        service_of(reward).close()
    assert [score.status for score in scores] == ["error", "error"]
    assert all(math.isnan(score.value) and "gsm8k" not in score.parts and "judge" in score.parts for score in scores)


def hang(rollout: Rollout) -> float:
    time.sleep(60)
    return 1.0


def test_a_part_past_the_deadline_is_a_timeout_and_no_zero(url: str) -> None:
    reward = with_judge(url, {"name": f"{__file__}:hang"})
    started = time.monotonic()
    try:
        scores = score_rollouts(reward, group("024", "021"), 2.0)
    finally:
        service_of(reward).close()
    assert [score.status for score in scores] == ["timeout", "timeout"]
    assert all(math.isnan(score.value) for score in scores)
    assert time.monotonic() - started < 30


def test_two_judges_keep_their_scores_their_calls_and_their_metrics_apart(url: str, tmp_path: Path) -> None:
    graded = {"name": "judge", "params": {"url": url, "model": "tiny", "cache": "off", "mode": "score"}}
    reward = with_judge(url, graded)
    service = service_of(reward)
    service.keep_count(tmp_path)
    try:
        (first, second) = score_rollouts(reward, group("024", "0xx"), 60)
    finally:
        service.close()
    # Grades of the server: 4 of 4 right (with its end) is 10, 2 of 4 is 1 + 18 // 4 = 5; scaled 1 and 4/9.
    assert (first.parts["judge"], first.parts["judge#2"]) == (1.0, 1.0)
    assert (second.parts["judge"], second.parts["judge#2"]) == (0.0, pytest.approx(4 / 9))
    assert (first.value, second.value) == (3.0, pytest.approx(4 / 9))
    assert service.metrics()["judge/calls"] == service.metrics()["judge#2/calls"] == 2.0
    assert {path.name: path.stat().st_size for path in tmp_path.iterdir()} == {"judge_calls": 2, "judge#2_calls": 2}


class Lengths:
    """A reward model's place, taken by a service that knows the answer beforehand."""

    def ready(self) -> None: ...

    def score(self, rollouts: Sequence[Rollout], timeout_seconds: float) -> list[Score]:
        return [Score(float(len(rollout.text))) for rollout in rollouts]

    def metrics(self) -> Metrics:
        return {"reward_model/scored": 3.0}

    def close(self) -> None: ...


def test_a_reward_model_judges_once_a_run_has_attached_it() -> None:
    parts = [STOPPED, {"name": "reward_model", "weight": -1.0, "params": {"path": "run:x"}}]
    reward = get_reward("composite", {"parts": parts})
    service = service_of(reward)
    service.ready()
    (alone,) = score_rollouts(reward, group("abc"), 30)
    assert alone.status == "error" and "is loaded by a run" in alone.detail
    service.attach(Lengths())
    (score,) = score_rollouts(reward, group("abc"), 30)
    assert (score.value, score.parts) == (-2.5, {"stopped": 1.0, "reward_model": 3.0})
    assert service.metrics() == {"reward_model/scored": 3.0}


def test_functions_alone_need_no_service() -> None:
    reward = get_reward("composite", {"parts": [STOPPED]})
    assert reward.service is None
    assert pickle.loads(pickle.dumps(reward)).params == reward.params  # noqa: S301 - our own bytes
