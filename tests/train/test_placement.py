from __future__ import annotations

from typing import Any

import pytest

from oxrl_core.config.schema import Config
from oxrl_core.errors import PlacementError
from oxrl_core.train.placement import Resources, Share, plan_placement


def config_with(**sections: dict[str, Any]) -> Config:
    return Config.model_validate(
        {
            "run": {"name": "placed"},
            "model": {"path": "miniature:chars"},
            "data": {"train": [{"name": "copy3"}]},
            **sections,
        }
    )


def test_two_cores_hold_two_ranks_and_two_samplers_with_half_a_core_each() -> None:
    config = config_with(train={"num_workers": 2}, rollout={"num_workers": 2})
    plan = plan_placement(config, Resources(cpus=2))
    assert (plan.learner, plan.sampler, plan.threads) == (Share(0.5), Share(0.5), 1)


def test_spare_cores_become_threads() -> None:
    plan = plan_placement(config_with(), Resources(cpus=9))
    assert (plan.learner.num_cpus, plan.threads) == (1.0, 4)


def test_a_supervised_run_places_no_sampler() -> None:
    config = config_with(algorithm={"name": "sft"}, train={"num_workers": 2})
    assert plan_placement(config, Resources(cpus=16, gpus_by_node=(2,))).learner == Share(1.0, 1.0)


def test_a_reward_model_books_its_share_and_a_gpu_only_where_one_is_left() -> None:
    config = config_with(reward={"name": "reward_model", "path": "run:rm"})
    # Three workers on two cores: two share one of them.
    assert plan_placement(config, Resources(cpus=2)).scorer == Share(0.5)
    assert plan_placement(config, Resources(cpus=8, gpus_by_node=(2,))).scorer == Share(1.0)
    assert plan_placement(config, Resources(cpus=8, gpus_by_node=(3,))).scorer == Share(1.0, 1.0)


def test_on_gpus_every_worker_has_its_own_unless_colocated() -> None:
    gpus = Resources(cpus=16, gpus_by_node=(4,))
    apart = config_with(train={"num_workers": 2}, rollout={"num_workers": 1, "tensor_parallel": 2})
    assert plan_placement(apart, gpus).sampler.num_gpus == 2
    together = config_with(train={"num_workers": 4}, rollout={"num_workers": 4, "colocate": True})
    plan = plan_placement(together, gpus)
    assert plan.is_colocated and plan.learner.num_gpus + plan.sampler.num_gpus == 1


@pytest.mark.parametrize(
    ("sections", "resources", "words"),
    [
        ({"rollout": {"tensor_parallel": 2}}, Resources(cpus=4), ["rollout.tensor_parallel", "0 GPUs", "4 CPU"]),
        ({"deepspeed": {"offload_optimizer": True}}, Resources(cpus=4), ["offload_optimizer", "0 GPUs"]),
        ({"train": {"num_workers": 4}}, Resources(8, (2.0, 2.0)), ["5 GPUs", "4 for the learner", "there are 4"]),
        ({"rollout": {"tensor_parallel": 2}}, Resources(8, (1.0,) * 4), ["2 on one node", "4 node"]),
        ({"rollout": {"colocate": True, "num_workers": 2}}, Resources(8, (2.0,)), ["1 learners", "2 samplers"]),
        ({"train": {"num_workers": 99}}, Resources(cpus=2), ["100 workers", "2 CPU cores"]),
    ],
)
def test_what_cannot_be_placed_names_what_is_asked_and_what_there_is(
    sections: dict[str, Any], resources: Resources, words: list[str]
) -> None:
    with pytest.raises(PlacementError) as caught:
        plan_placement(config_with(**sections), resources)
    assert [word for word in words if word not in str(caught.value)] == []
    assert caught.value.next_step
