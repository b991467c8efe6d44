"""What a step's completions teach."""

from __future__ import annotations

import pytest

from oxrl_core.config.schema import Config
from oxrl_core.rewards.shaping import RunningMoments
from oxrl_core.train.draw import Drawn
from oxrl_core.train.lessons import make_lesson
from oxrl_core.types import Prompt, Rollout, Score

PROMPT = Prompt("p", [1, 2], "?", completion_ids=[7, 0])


def config(name: str, **sections) -> Config:
    base = {"run": {"name": "x"}, "model": {"path": "miniature:chars"}, "data": {"train": "reverse3"}}
    return Config.model_validate(base | {"algorithm": {"name": name}} | sections)


def rollout(token_ids: list[int], reward: float | None = None, index: int = 0) -> Rollout:
    score = None if reward is None else Score(reward)
    return Rollout(PROMPT, index, token_ids, [0.0] * len(token_ids), "stop", 0, 0, score=score)


def lesson(name: str, groups: list[list[Rollout]], **sections):
    drawn = Drawn([one for group in groups for one in group], groups)
    return make_lesson(drawn, config(name, **sections), learner=None, moments=RunningMoments())


def test_rejection_sampling_keeps_what_is_good_enough_once_and_at_most_so_many_of_a_prompt():
    group = [
        rollout([5], 0.5, 0),
        rollout([6], 0.9, 1),
        rollout([6], 0.9, 2),  # the same text again
        rollout([7], 1.0, 3),
        rollout([8], 0.8, 4),
    ]
    made = lesson("rft", [group, [rollout([9], 0.1)]], selection={"reward_threshold": 0.8, "max_per_prompt": 2})
    assert [example.token_ids for example in made.examples] == [[1, 2, 7], [1, 2, 6]]
    assert made.examples[0].completion_mask == [False, False, True]
    assert made.metrics["selection/kept"] == pytest.approx(2 / 6)
    assert made.rollouts == [group[3], group[1]]


def test_online_pairs_are_best_against_worst_and_a_tie_makes_none():
    group = [rollout([5], 0.5), rollout([6], 0.9), rollout([7], 0.1)]
    made = lesson("online_dpo", [group, [rollout([8], 0.3), rollout([9], 0.3)]])
    (pair,) = made.examples
    assert (pair.chosen.token_ids, pair.rejected.token_ids) == ([1, 2, 6], [1, 2, 7])
    assert pair.margin == pytest.approx(0.8)
    assert lesson("online_dpo", [group], selection={"min_margin": 0.8}).examples == []


def test_self_play_sets_the_rows_completion_against_the_drawn_one_unless_they_are_the_same():
    made = lesson("spin", [[rollout([5, 0])], [rollout([7, 0])]])
    (pair,) = made.examples
    assert (pair.chosen.token_ids, pair.rejected.token_ids) == ([1, 2, 7, 0], [1, 2, 5, 0])


def test_distillation_mixes_drawn_completions_with_those_of_the_data():
    drawn = Drawn([rollout([5, 0])], [[rollout([5, 0])]], undrawn=[PROMPT])
    made = make_lesson(drawn, config("gkd"), learner=None, moments=RunningMoments())
    assert [example.token_ids for example in made.examples] == [[1, 2, 5, 0], [1, 2, 7, 0]]


def test_a_policy_gradient_learns_from_credits():
    made = lesson(
        "sgrpo", [[rollout([5], 1.0), rollout([6], 0.0)]], algorithm={"name": "sgrpo", "advantage": "group_centered"}
    )
    assert made.examples is None
    assert [credit.advantages for credit in made.credits] == [[0.5], [-0.5]]
    assert made.metrics["reward/shaped"] == 0.5


def test_what_was_cut_off_is_compared_but_not_trained_on_where_that_is_asked():
    cut = rollout([6], 0.0)
    cut.finish_reason = "length"
    algorithm = {"name": "sgrpo", "advantage": "group_centered"}
    made = lesson("sgrpo", [[rollout([5], 1.0), cut]], algorithm=algorithm, rollout={"drop_truncated": True})
    assert [one.token_ids for one in made.rollouts] == [[5]]
    assert [credit.advantages for credit in made.credits] == [[0.5]]
    assert made.metrics["selection/kept"] == 0.5
    assert len(lesson("sgrpo", [[rollout([5], 1.0), cut]], algorithm=algorithm).rollouts) == 2
    nothing = lesson("sgrpo", [[cut, cut]], algorithm=algorithm, rollout={"drop_truncated": True})
    assert (nothing.rollouts, nothing.credits, nothing.metrics["selection/kept"]) == ([], [], 0.0)
