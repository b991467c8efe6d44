"""Rewards of one's own in every form: dotted path, file, class, function of completions, tensors; and the self-test."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from oxrl_core.errors import ConfigError, RewardError
from oxrl_core.rewards.base import close_workers, get_reward, score_rollouts
from oxrl_core.rewards.self_test import Outcome, self_test
from oxrl_core.types import Prompt, Rollout, Row, Score

FILE = '''
import os
from dataclasses import dataclass
from oxrl_core.rewards.base import reward
from oxrl_core.types import Score

@dataclass
class Held:
    value: float

def near(rollout, *, length: int, weight: float = 1.0):
    """Closeness to a length."""
    return Held(-weight * abs(len(rollout.text) - length)).value

@reward("own_file_pairs", scope="group")
def pairs(rollouts, *, bonus: float = 0.0):
    """The number of completions of the prompt."""
    return [len(rollouts) + bonus for _ in rollouts]

class Accuracy:
    """1 where the solution stands in the completion."""
    name = "accuracy"

    def __init__(self, scale: float = 1.0):
        self.scale, self.calls = scale, 0

    def __call__(self, completions, solution, prompts, **kwargs) -> list[float]:
        self.calls += 1
        assert len(prompts) == len(solution) == len(kwargs["answer"]) == len(completions)
        return [self.scale * (wanted in text) for text, wanted in zip(completions, solution)]

class Tagger:
    def __call__(self, completions, **kwargs):
        return [None if text == "x" else 1.0 for text in completions]

ready_made = Tagger()

def share(prompts, completions, **kwargs):
    return [len(text) / 10 for text in completions]

def narrow(completions, answer):
    return [float(text == wanted) for text, wanted in zip(completions, answer)]

def short(completions, **kwargs):
    return [1.0]

class NoReward:
    def __call__(self, text):
        return 1.0

def of_ids(prompt_ids, response_ids, finish_reason, metadata=None):
    """1 for an even number of tokens, as a tensor."""
    import torch
    tensor = torch.zeros(len(response_ids))
    tensor[-1] = float(len(response_ids) % 2 == 0) + 10 * (metadata["solution"] in metadata["response"])
    return tensor, False

def per_token(prompt_ids, response_ids, finish_reason):
    import torch
    return torch.full((len(response_ids),), 0.5), True

def one_short(prompt_ids, response_ids, finish_reason):
    import torch
    return torch.zeros(len(response_ids) - 1), True

def no_pair(prompt_ids, response_ids, finish_reason):
    return 1.0
'''


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("own") / "my rewards.py"  # once: a name is registered once in a process
    path.write_text(FILE)
    yield str(path)
    close_workers()


def group(*texts: str, tokens: int = 2) -> list[Rollout]:
    prompt = Prompt("own/train/0", [1, 2], "?", "a", row={"solution": "a", "completions": "no column"})
    return [
        Rollout(prompt, place, [3] * tokens, [0.0] * tokens, "stop", 0, 0, text=text)
        for place, text in enumerate(texts)
    ]


def values(name: str, rollouts: list[Rollout], **params: object) -> list[float]:
    """The scores, which are the same in this process and in the workers."""
    reward = get_reward(name, params)
    here, there = reward.judge(rollouts), score_rollouts(reward, rollouts, 60)
    assert [score.value for score in here] == [score.value for score in there], (here, there)
    return [score.value for score in there]


def test_a_function_of_a_file(file: str) -> None:
    assert values(f"{file}:near", group("aaa", "a"), length=3, weight=2.0) == [0.0, -4.0]
    with pytest.raises(ConfigError, match=r"needs reward\.length"):
        get_reward(f"{file}:near")
    with pytest.raises(ConfigError, match="Did you mean 'length'"):
        get_reward(f"{file}:near", {"lenght": 3})


def test_a_registered_function_of_a_file_keeps_its_scope_and_name(file: str) -> None:
    reward = get_reward(f"{file}:pairs", {"bonus": 0.5})
    assert (reward.name, reward.scope) == ("own_file_pairs", "group")
    assert values(f"{file}:pairs", group("a", "b", "c"), bonus=0.5) == [3.5] * 3


def test_a_class_sees_the_completions_of_a_prompt_with_the_columns_of_its_row(file: str) -> None:
    reward = get_reward(f"{file}:Accuracy", {"scale": 2.0})
    assert (reward.name, reward.scope, reward.summary) == (
        "accuracy", "group", "1 where the solution stands in the completion."
    )  # fmt: skip
    assert values(f"{file}:Accuracy", group("a b", "c"), scale=2.0) == [2.0, 0.0]
    assert values(f"{file}:Accuracy", group("a b", "c")) == [1.0, 0.0]
    with pytest.raises(ConfigError, match=r"reward\.scales is not a parameter"):
        get_reward(f"{file}:Accuracy", {"scales": 1.0})


def test_an_object_and_functions_of_completions(file: str) -> None:
    assert values(f"{file}:share", group("aaaaa", "")) == [0.5, 0.0]
    assert values(f"{file}:narrow", group("a", "b")) == [1.0, 0.0]
    scores = get_reward(f"{file}:ready_made").judge(group("a", "x"))
    assert [score.status for score in scores] == ["ok", "error"]  # None is no score, and no zero
    assert get_reward(f"{file}:short").judge(group("a", "b"))[0].status == "error"


def test_tensors_count_by_their_sum(file: str) -> None:
    assert values(f"{file}:of_ids", group("a", "b", tokens=4)) == [11.0, 1.0]
    assert values(f"{file}:of_ids", group("b", tokens=3)) == [0.0]
    assert values(f"{file}:per_token", group("a", tokens=4)) == [2.0]
    assert "3 scores for 4 tokens" in get_reward(f"{file}:one_short").judge(group("a", tokens=4))[0].detail
    assert "(tensor, is_per_token)" in get_reward(f"{file}:no_pair").judge(group("a"))[0].detail


def test_the_driver_does_not_import_torch_for_a_reward_of_tensors(file: str) -> None:
    program = (
        "import sys\nfrom oxrl_core.rewards.base import get_reward\n"
        f"get_reward({file + ':of_ids'!r})\nprint('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NoReward", "is no reward: its __call__ takes"),
        ("nothing", "has no function 'nothing'"),
        ("neer", "Did you mean 'near'"),
    ],
)
def test_what_is_no_reward_is_refused_by_name(file: str, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get_reward(f"{file}:{name}")


def test_a_file_that_is_not_there_or_does_not_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        get_reward(f"{tmp_path}/none.py:f")
    (tmp_path / "broken.py").write_text("1 / 0")
    for _ in range(2):  # the second time too: a half-run module is not kept
        with pytest.raises(ConfigError, match="ZeroDivisionError"):
            get_reward(f"{tmp_path}/broken.py:f")


# ---- the self-test


def rows(*answers: str, **more: object) -> list[Row]:
    return [
        {"id": f"t/train/{place}", "prompt": "?", "answer": answer, "row": dict(more)}
        for place, answer in enumerate(answers)
    ]


GOOD = {
    "gsm8k": ["72", "6 times 7 is 42\n#### 42", "1,234.5"],
    "default": ["72", "Paris", "#### 3"],
    "exact": ["Paris"],
    "positions": ["024"],
    "math": ["42", r"\frac{1}{2}", r"So it is \boxed{x^2+1}.", r"[1,\infty)", r"\text{east}", "#### 7"],
    "soft_math": ["42", r"\frac{1}{2}"],
    "mcqa": ["B", "(C)", "D) Paris"],
    "reasoning": ["42", r"\boxed{7}", "east"],
    "multimodal": ["3", "a red car"],
}


@pytest.mark.parametrize("name", GOOD)
def test_every_reward_accepts_its_own_references(name: str) -> None:
    answers = GOOD[name]
    assert self_test(get_reward(name), rows(*answers), 60) == Outcome(tested=len(answers))
    close_workers()


def test_a_template_that_opens_the_thinking_is_known_to_the_self_test() -> None:
    row = rows("42")[0] | {"prompt": [{"role": "user", "content": "Solve.\n<think>\n"}]}
    assert self_test(get_reward("reasoning", {"mode": "strict"}), [row], 60).tested == 1


@pytest.mark.parametrize(
    ("name", "answer", "reason"),
    [
        ("gsm8k", "none", "holds no number"),
        ("mcqa", "Paris", "names no letter"),
        ("soft_math", "x+1", "is no number"),
    ],
)
def test_a_verifier_that_rejects_its_references_stops_the_run(name: str, answer: str, reason: str) -> None:
    good = {"gsm8k": "1", "mcqa": "A", "soft_math": "1"}[name]
    with pytest.raises(RewardError, match="rejects the reference of its own row") as caught:
        self_test(get_reward(name), rows(good, answer), 60)
    assert caught.value.where == "t/train/1" and reason in caught.value.what
    assert "answer_column" in caught.value.next_step


def test_rewards_without_a_gold_completion_are_not_tested_and_composites_by_their_parts() -> None:
    assert self_test(get_reward("format"), rows("1", "2"), 60) == Outcome(skipped=2)
    parts = get_reward("composite", {"parts": [{"name": "gsm8k"}, {"name": "format"}]})
    assert self_test(parts, rows("1", "2"), 60) == Outcome(tested=2, skipped=2)
    with pytest.raises(RewardError, match="the reward gsm8k rejects"):
        self_test(parts, rows("none"), 60)
    assert self_test(get_reward("math"), rows(""), 60) == Outcome(skipped=1)


def test_a_missing_answer_is_an_error_whatever_the_reward_is() -> None:
    for name in GOOD:
        score = get_reward(name)(Rollout(Prompt("t/0", [1], "?"), 0, [1], [0.0], "stop", 0, 0, text="42"))
        assert (score.status, math.isnan(score.value)) == ("error", True), name
    assert Score(0.0).status == "ok"
