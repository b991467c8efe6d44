"""Verdicts: what a reward may return, and a deadline that holds whatever it does."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from oxrl_core.errors import ConfigError, RewardError
from oxrl_core.rewards.base import Reward, all_rewards, close_workers, get_reward, score_rollouts
from oxrl_core.runs.process import identify, is_alive
from oxrl_core.types import Prompt, Rollout, Score

OWN_REWARDS = '''
import os, re, sys, time
from oxrl_core.rewards.base import reward
from oxrl_core.types import Score

def length(rollout):
    """Number of characters."""
    print("a reward may print")
    return len(rollout.text)

def parts(rollout):
    return Score(0.5, parts={"a": 0.25, "b": 0.25})

def raises(rollout):
    raise RuntimeError("no verdict on " + rollout.text)

def leaves(rollout):
    sys.exit(0)

def nothing(rollout):
    return None

def not_a_number(rollout):
    return float("nan")

def sleeps_on_x(rollout):
    if rollout.text == "x":
        time.sleep(600)
    return 1.0

def backtracks_on_x(rollout):
    if rollout.text == "x":
        re.match(r"(a+)+$", "a" * 60 + "b")  # years, and it never releases the interpreter's lock
    return 1.0

def dies_on_x(rollout):
    if rollout.text == "x":
        os._exit(7)
    return 1.0

def killed_once(rollout):
    if os.path.isabs(rollout.text) and not os.path.exists(rollout.text):
        open(rollout.text, "w").close()
        os.kill(os.getpid(), 9)
    return 1.0

def process(rollout):
    return os.getpid()

def near(rollout, *, length: int, weight: float = 1.0, goal: str = "exact"):
    """Closeness to a length."""
    return -weight * abs(len(rollout.text) - length) + (goal == "bonus")

def positional(rollout, weight=1.0):
    return weight

def untyped(rollout, *, words=None):
    return len(words)

@reward("own_longest", scope="group")
def longest(rollouts, *, bonus: float = 0.0):
    """1 for the longest of a prompt."""
    most = max(len(rollout.text) for rollout in rollouts)
    return [float(len(rollout.text) == most) + bonus for rollout in rollouts]

@reward("own_short_list", scope="group")
def short_list(rollouts):
    return [1.0]

@reward("own_no_list", scope="group")
def no_list(rollouts):
    return 1.0

@reward("own_mixed", scope="group")
def mixed(rollouts):
    return [1.0, float("nan"), Score(0.0, "no_answer"), "much"]

@reward("own_group_dies", scope="group")
def group_dies(rollouts):
    if rollouts[0].text == "x":
        os._exit(7)
    return [len(rollouts)] * len(rollouts)
'''


@pytest.fixture(autouse=True)
def own_rewards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "own_rewards.py").write_text(OWN_REWARDS)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    close_workers()


def rollouts_of(*texts: str) -> list[Rollout]:
    return [
        Rollout(
            prompt=Prompt(id=f"test/train/{index}", token_ids=[1], text="?", answer="x"),
            sample_index=0,
            token_ids=[1],
            rollout_logprobs=[0.0],
            finish_reason="stop",
            policy_version=0,
            seed=0,
            text=text,
        )
        for index, text in enumerate(texts)
    ]


BUILT_IN = sorted(name for name in all_rewards() if not name.startswith("own_"))


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_reward_is_documented(name: str) -> None:
    entry = all_rewards()[name]
    assert entry.summary.rstrip(".")
    assert entry.scope in ("rollout", "group")
    # What a signature takes is what a configuration may set: the defaults pass their own checks.
    assert entry.parameters.check(entry.params, section="reward", owner=name) == entry.params


@pytest.mark.parametrize("name", [name for name in BUILT_IN if all_rewards()[name].needs_answer])
def test_a_missing_answer_is_an_error_not_a_zero(name: str) -> None:
    entry = get_reward(name)
    rollout = rollouts_of("72")[0]
    rollout.prompt = Prompt(id="test/train/0", token_ids=[1], text="?", answer="  ")
    score = entry(rollout)
    assert (score.status, math.isnan(score.value)) == ("error", True)
    assert "no reference answer" in score.detail


@pytest.mark.parametrize(
    ("name", "status", "detail"),
    [
        ("raises", "error", "RuntimeError: no verdict on text"),
        ("leaves", "error", "SystemExit: 0"),
        ("nothing", "error", "returned None"),
        ("not_a_number", "error", "value is nan"),
    ],
)
def test_what_is_no_number_is_an_error_and_no_value(name: str, status: str, detail: str) -> None:
    for score in (
        get_reward(f"own_rewards:{name}")(rollouts_of("text")[0]),
        score_rollouts(get_reward(f"own_rewards:{name}"), rollouts_of("text"), 30)[0],
    ):
        assert (score.status, math.isnan(score.value)) == (status, True)
        assert detail in score.detail


def test_a_number_or_a_score_is_a_verdict() -> None:
    assert get_reward("own_rewards:length")(rollouts_of("four")[0]) == Score(4.0)
    assert get_reward("own_rewards:parts")(rollouts_of("")[0]).parts == {"a": 0.25, "b": 0.25}


def test_scores_come_in_the_order_of_the_rollouts() -> None:
    texts = ["a" * (index % 50) for index in range(300)]
    scores = score_rollouts(get_reward("own_rewards:length"), rollouts_of(*texts), 60)
    assert [score.value for score in scores] == [float(len(text)) for text in texts]
    assert {score.status for score in scores} == {"ok"}
    assert score_rollouts(get_reward("own_rewards:length"), [], 60) == []


@pytest.mark.parametrize("name", ["sleeps_on_x", "backtracks_on_x"])
def test_a_verdict_that_hangs_is_a_timeout_and_does_not_hold_the_driver(name: str) -> None:
    reward = get_reward(f"own_rewards:{name}")
    score_rollouts(reward, rollouts_of(*"ab"), 30)  # the workers' start is not what is measured
    start = time.monotonic()
    scores = score_rollouts(reward, rollouts_of(*"ab", "x"), 2.0)
    assert time.monotonic() - start < 8
    assert [score.status for score in scores] == ["ok", "ok", "timeout"]
    assert math.isnan(scores[2].value)
    assert "2 s" in scores[2].detail
    again = score_rollouts(reward, rollouts_of(*"ab"), 30)  # and the next step is judged as ever
    assert [score.value for score in again] == [1.0, 1.0]


def test_a_hanging_verdict_takes_only_its_neighbours_with_it() -> None:
    reward = get_reward("own_rewards:sleeps_on_x")
    scores = score_rollouts(reward, rollouts_of("x", *["a"] * 99), 3.0)
    assert scores[0].status == "timeout"
    assert [score.status for score in scores].count("ok") >= 84  # at most its chunk of 16 is lost


def test_a_reward_that_kills_its_process_costs_one_verdict() -> None:
    scores = score_rollouts(get_reward("own_rewards:dies_on_x"), rollouts_of("a", "x", "b", "x", "c"), 60)
    assert [score.status for score in scores] == ["ok", "error", "ok", "error", "ok"]
    assert "exit code 7" in scores[1].detail


def test_a_worker_that_somebody_kills_costs_no_verdict(tmp_path: Path) -> None:
    reward = get_reward("own_rewards:process")
    idle = score_rollouts(reward, rollouts_of("a"), 60)[0].value
    os.kill(int(idle), signal.SIGKILL)
    (after,) = score_rollouts(reward, rollouts_of("a"), 60)
    assert after.status == "ok" and after.value != idle
    scores = score_rollouts(get_reward("own_rewards:killed_once"), rollouts_of(*"abx", str(tmp_path / "killed")), 60)
    assert [score.status for score in scores] == ["ok"] * 4


def test_verdicts_are_computed_outside_the_driver_by_workers_that_are_kept() -> None:
    reward = get_reward("own_rewards:process")
    first = score_rollouts(reward, rollouts_of("a"), 60)[0].value
    assert first != os.getpid()
    assert score_rollouts(reward, rollouts_of("a"), 60)[0].value == first
    close_workers()
    with pytest.raises(ProcessLookupError):
        os.kill(int(first), 0)


def test_an_interrupt_at_the_terminal_reaches_the_workers_and_the_driver_alone_decides() -> None:
    """Ctrl-C goes to the whole process group; a worker that died of it would cost the step its verdicts."""
    reward = get_reward("own_rewards:process")
    before = score_rollouts(reward, rollouts_of("a"), 60)[0].value
    os.kill(int(before), signal.SIGINT)
    time.sleep(0.2)
    assert score_rollouts(reward, rollouts_of("a"), 60)[0] == Score(before)


DRIVER = """
import os, sys
from oxrl_core.rewards.base import get_reward, score_rollouts
from oxrl_core.types import Prompt, Rollout
prompt = Prompt(id="test/train/0", token_ids=[1], text="?", answer="x")
rollout = Rollout(prompt, 0, [1], [0.0], "stop", 0, 0, text="a")
print(int(score_rollouts(get_reward("own_rewards:process"), [rollout], 60)[0].value), flush=True)
os.kill(os.getpid(), 9)
"""


def test_a_worker_ends_with_its_driver_however_that_ends(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    driver = subprocess.run(
        [sys.executable, "-c", DRIVER], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert driver.returncode == -signal.SIGKILL, driver.stderr
    worker = identify(int(driver.stdout))
    deadline = time.monotonic() + 10
    while is_alive(worker):
        assert time.monotonic() < deadline, "the worker outlives its driver"
        time.sleep(0.02)
    assert "Traceback" not in driver.stderr


def test_a_reward_that_no_other_process_can_import_is_refused_with_the_reason() -> None:
    with pytest.raises(RewardError, match="cannot be named from another process") as caught:
        score_rollouts(Reward("mine", lambda rollout: 1.0), rollouts_of("a"), 5)
    assert "package.module:function" in caught.value.next_step


def test_parameters_reach_the_function_in_this_process_and_in_the_workers() -> None:
    reward = get_reward("own_rewards:near", {"length": 3, "weight": 2})
    assert reward.params == {"length": 3, "weight": 2.0, "goal": "exact"}
    assert reward(rollouts_of("12345")[0]) == Score(-4.0)
    assert [score.value for score in score_rollouts(reward, rollouts_of("123", "1"), 60)] == [0.0, -4.0]
    # Other values are another reward: the workers of the first must not answer for it.
    other = get_reward("own_rewards:near", {"length": 1, "goal": "bonus"})
    assert [score.value for score in score_rollouts(other, rollouts_of("123", "1"), 60)] == [-1.0, 1.0]
    assert score_rollouts(get_reward("own_rewards:untyped", {"words": ["a", "b"]}), rollouts_of("x"), 60)[0].value == 2


@pytest.mark.parametrize(
    ("params", "where", "message"),
    [
        ({}, "reward.length", "own_rewards:near needs reward.length"),
        ({"length": 3, "wieght": 1.0}, "reward.wieght", "Did you mean 'weight'"),
        ({"length": True}, "reward.length", "reward.length = True"),
        ({"length": 3.5}, "reward.length", r"reward.length = 3\.5"),
        ({"length": 3, "goal": 7}, "reward.goal", "reward.goal = 7"),
    ],
)
def test_wrong_parameters_are_refused_by_name(params: dict[str, object], where: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        get_reward("own_rewards:near", params)
    assert caught.value.where == where
    assert "length (required), weight (default 1.0)" in caught.value.next_step


def test_a_parameter_that_could_be_taken_for_a_rollout_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be keyword-only"):
        get_reward("own_rewards:positional")
    with pytest.raises(ConfigError, match=r"reward\.tolerance is not a parameter of gsm8k"):
        get_reward("gsm8k", {"tolerance": 1})


def groups_of(*groups: tuple[str, ...]) -> list[Rollout]:
    rollouts = [rollout for group in groups for rollout in rollouts_of(*group)]
    places = [place for group in groups for place in range(len(group))]
    for rollout, place in zip(rollouts, places, strict=True):
        rollout.prompt, rollout.sample_index = rollouts[0].prompt, place
    return rollouts


def test_a_group_reward_sees_all_completions_of_a_prompt_and_no_others() -> None:
    reward = get_reward("own_rewards:longest", {"bonus": 0.5})
    assert (reward.name, reward.scope) == ("own_longest", "group")
    # One prompt drawn three times in a step: three groups.
    rollouts = groups_of(("a", "aaa"), ("aa", "a", "a"), ("a",))
    assert [score.value for score in score_rollouts(reward, rollouts, 60)] == [0.5, 1.5, 1.5, 0.5, 0.5, 1.5]
    assert [score.value for score in reward.judge(rollouts[:2])] == [0.5, 1.5]
    many = groups_of(*[("a", "aa", "a", "a")] * 50)
    assert [score.value for score in score_rollouts(reward, many, 60)] == [0.5, 1.5, 0.5, 0.5] * 50


def test_a_group_reward_that_answers_wrongly_gives_errors() -> None:
    two = groups_of(("a", "b"))
    short = score_rollouts(get_reward("own_rewards:short_list"), two, 60)
    assert [(score.status, score.detail) for score in short] == [
        ("error", "the reward gave 1 scores for 2 rollouts")
    ] * 2
    assert "no list of scores" in score_rollouts(get_reward("own_rewards:no_list"), two, 60)[1].detail
    mixed = score_rollouts(get_reward("own_rewards:mixed"), groups_of(("a", "b", "c", "d")), 60)
    assert [score.status for score in mixed] == ["ok", "error", "no_answer", "error"]


def test_a_group_that_kills_its_process_costs_its_own_verdicts() -> None:
    rollouts = groups_of(("a", "b"), ("x", "y", "z"), ("c",))
    scores = score_rollouts(get_reward("own_rewards:group_dies"), rollouts, 60)
    assert [score.value for score in scores[:2]] == [2, 2]
    assert [score.status for score in scores[2:5]] == ["error"] * 3
    assert scores[5].value == 1


def test_a_service_scores_instead_of_the_workers() -> None:
    class Fixed:
        """A service as small as one can be."""

        def ready(self) -> None: ...

        def score(self, rollouts: Sequence[Rollout], timeout_seconds: float) -> list[Score]:
            return [Score(timeout_seconds)] * len(rollouts)

        def metrics(self) -> dict[str, float]:
            return {}

        def close(self) -> None: ...

    reward = replace(get_reward("reward_model", {"path": "run:x"}), service=Fixed())
    assert score_rollouts(reward, rollouts_of("a", "b"), 9.0) == [Score(9.0)] * 2
    assert score_rollouts(reward, [], 9.0) == []


def test_a_reward_model_without_its_service_and_none_say_so() -> None:
    scores = score_rollouts(get_reward("reward_model", {"path": "run:x"}), rollouts_of("a"), 60)
    assert scores[0].status == "error" and "loaded by a run" in scores[0].detail
    scores = score_rollouts(get_reward("none"), rollouts_of("a"), 60)
    assert scores[0].status == "error" and "reward.name is none" in scores[0].detail
    with pytest.raises(ConfigError, match=r"reward_model needs reward\.path"):
        get_reward("reward_model")


def test_a_misspelt_reward_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'positions'"):
        get_reward("position")
