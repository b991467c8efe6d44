from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from oxrl_core.config.schema import Config
from oxrl_core.errors import StalePolicyError
from oxrl_core.rollout.sampler import Sampler, sample_seed
from oxrl_core.rollout.worker import Completion
from oxrl_core.train.groups import start_group
from oxrl_core.types import Prompt

CONFIG = Config.model_validate(
    {"run": {"name": "s", "seed": 5}, "model": {"path": "miniature:chars"}, "data": {"train": [{"name": "copy3"}]}}
)


class Echo:
    """A worker whose completion says what it was asked: the prompt's length and the low digits of the seed."""

    def __init__(self, forgets: bool = False) -> None:
        self.forgets = forgets
        self.number = 0
        self.rows_drawn = 0

    def generate(
        self,
        token_id_lists: Sequence[Sequence[int]],
        seeds: Sequence[int],
        temperature: float,
        max_tokens: int,
        greedy: bool,
    ) -> list[Completion]:
        self.rows_drawn += len(seeds)
        return [
            Completion([len(row), seed % 1000], [-temperature, -1.0], "stop", self.number)
            for row, seed in zip(token_id_lists, seeds, strict=True)
        ]

    def load_weights(self, weights: Any, version: int) -> None:
        if not self.forgets:
            self.number = version

    def drawn(self) -> int:
        return self.rows_drawn


def sampler_of(size: int, forgetful: int = -1) -> Sampler:
    arguments = [(index == forgetful,) for index in range(size)]
    group = start_group(Echo, arguments, config=CONFIG, cluster=None, name="sampler")
    return Sampler(group, CONFIG, decode=lambda token_ids: "/".join(map(str, token_ids)))


PROMPTS = [Prompt(id=f"d/train/{i}", token_ids=[7] * (i + 1), text="") for i in range(5)]


def draw(sampler: Sampler, prompts: list[Prompt], group_size: int = 3, step: int = 2) -> list[Any]:
    return sampler.generate(prompts, group_size=group_size, temperature=0.5, max_tokens=4, step=step)


def test_rollouts_come_prompt_by_prompt_and_carry_what_drew_them() -> None:
    rollouts = draw(sampler_of(2), PROMPTS)
    assert [(r.prompt.id, r.sample_index) for r in rollouts] == [(p.id, i) for p in PROMPTS for i in range(3)]
    for rollout in rollouts:
        seed = sample_seed(5, 2, rollout.prompt.id, rollout.sample_index)
        assert rollout.seed == seed
        assert rollout.token_ids == [len(rollout.prompt.token_ids), seed % 1000]
        assert rollout.rollout_logprobs == [-0.5, -1.0]
        assert rollout.text == f"{rollout.token_ids[0]}/{rollout.token_ids[1]}"


@pytest.mark.parametrize("size", [2, 3, 4, 7, 20])
def test_the_number_of_workers_changes_nothing_but_who_draws(size: int) -> None:
    sampler = sampler_of(size)
    assert draw(sampler, PROMPTS) == draw(sampler_of(1), PROMPTS)
    shares = sampler.group.call("drawn")
    assert sum(shares) == 15 and max(shares) - min(shares) <= 1


def test_a_prompt_that_occurs_twice_in_a_step_is_drawn_with_new_seeds() -> None:
    rollouts = draw(sampler_of(1), [PROMPTS[0], PROMPTS[1], PROMPTS[0]])
    assert len({rollout.seed for rollout in rollouts}) == 9
    assert [rollout.sample_index for rollout in rollouts] == [0, 1, 2] * 3


def test_a_worker_that_missed_a_sync_is_found_out() -> None:
    sampler = sampler_of(3, forgetful=1)
    draw(sampler, PROMPTS)
    sampler.load_weights({}, 1)
    with pytest.raises(StalePolicyError, match=r"versions \[0, 1\] of the policy, not with 1 alone"):
        draw(sampler, PROMPTS)


def test_all_rollouts_bear_the_version_of_the_last_sync() -> None:
    sampler = sampler_of(2)
    sampler.load_weights({}, 9)
    assert {rollout.policy_version for rollout in draw(sampler, PROMPTS)} == {9} == {sampler.policy_version}


class Recording(Echo):
    """A worker that writes down what it is asked, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def generate(self, *args: Any) -> list[Completion]:
        self.asked.append("generate")
        return super().generate(*args)

    def load_weights(self, weights: Any, version: int) -> None:
        self.asked.append("load_weights")
        super().load_weights(weights, version)

    def probe(self, token_ids: list[int]) -> list[float]:
        self.asked.append("probe")
        return [0.0] * len(token_ids)

    def sleep(self) -> None:
        self.asked.append("sleep")

    def wake(self) -> None:
        self.asked.append("wake")

    def all_asked(self) -> list[str]:
        return self.asked


@pytest.mark.parametrize("colocate", [True, False])
def test_where_gpus_are_shared_the_sampler_sleeps_from_the_draw_to_the_next_sync(colocate: bool) -> None:
    config = CONFIG.model_copy(update={"rollout": CONFIG.rollout.model_copy(update={"colocate": colocate})})
    group = start_group(Recording, [(), ()], config=config, cluster=None, name="sampler")
    sampler = Sampler(group, config)
    for step in (1, 2):  # the order of the loop: hand over, prove, evaluate, draw, then the learner's turn
        sampler.load_weights({}, step)
        sampler.probe([1, 2])
        draw(sampler, PROMPTS[:1])
        draw(sampler, PROMPTS)
        draw(sampler, [])
    turns = ["load_weights", "probe", "generate", "sleep", "wake", "generate", "sleep"]
    expected = [*turns, "wake", *turns]
    if not colocate:
        expected = [word for word in expected if word not in ("sleep", "wake")]
    assert group.call("all_asked") == [expected] * 2


def test_no_prompts_give_no_rollouts() -> None:
    assert draw(sampler_of(2), []) == []


def test_a_seed_is_63_bits_and_depends_on_each_part_and_on_nothing_else() -> None:
    parts = [(0, 0, "a", 0), (1, 0, "a", 0), (0, 1, "a", 0), (0, 0, "b", 0), (0, 0, "a", 1), (0, 0, "a1", 0)]
    seeds = [sample_seed(*part) for part in parts]
    assert len(set(seeds)) == len(parts)
    assert all(0 <= seed < 2**63 for seed in seeds)
    # A literal: another machine, process or Python must draw the same.
    assert sample_seed(0, 0, "a", 0) == 7380464963453528430
