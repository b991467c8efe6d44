"""An algorithm's name sets what its paper says, and everything it sets can be meant together."""

from __future__ import annotations

import pytest

from oxrl_core.algorithms.base import all_algorithms, describe
from oxrl_core.config.keys import all_keys
from oxrl_core.config.load import load_config
from oxrl_core.config.presets import BY_LESSON, PRESETS, preset_for
from oxrl_core.config.schema import Config

MINIMAL = {"run": {"name": "r"}, "model": {"path": "miniature:chars"}, "data": {"train": "reverse3"}}


def loaded(name: str, *overrides: str) -> Config:
    teacher = ["algorithm.teacher=miniature:chars"] if all_algorithms()[name].signals == "Distributions" else []
    return load_config(MINIMAL, [f"algorithm.name={name}", *teacher, *overrides]).config


@pytest.mark.parametrize("name", sorted(all_algorithms()))
@pytest.mark.parametrize("lora", [False, True])
def test_every_algorithm_loads_with_its_preset_alone(name, lora):
    config = loaded(name, f"model.lora.enabled={str(lora).lower()}")
    assert config.algorithm.name == name


def test_every_preset_is_of_an_algorithm_and_sets_keys_that_exist_with_a_reason():
    assert set(PRESETS) <= set(all_algorithms())
    for preset in PRESETS.values():
        assert set(preset.values()) <= set(all_keys())
        assert len(preset.values()) == len(preset.choices)
        assert all(10 < len(choice.reason) <= 100 for choice in preset.choices), preset.name


def test_what_the_papers_pin():
    dapo = loaded("dapo")
    assert dapo.algorithm.aggregation == "token" and dapo.algorithm.kl_coef == 0
    assert (dapo.algorithm.params["clip_low"], dapo.algorithm.params["clip_high"]) == (0.2, 0.28)
    assert dapo.rollout.group_size == 16 and dapo.rollout.dynamic_sampling
    dr_grpo = loaded("dr_grpo").algorithm
    assert (dr_grpo.advantage, dr_grpo.aggregation) == ("group_centered", "constant")
    assert loaded("gspo").algorithm.aggregation == "sequence"
    assert loaded("luspo").algorithm.aggregation == "sequence_sum"
    rloo = loaded("rloo").algorithm
    assert (rloo.advantage, rloo.kl_coef, rloo.kl_estimator, rloo.kl_place) == ("leave_one_out", 0.05, "k1", "reward")
    ppo = loaded("ppo")
    assert (ppo.algorithm.advantage, ppo.algorithm.whiten, ppo.algorithm.gae_lambda) == ("gae", True, 0.95)
    assert (ppo.algorithm.kl_coef, ppo.algorithm.kl_place, ppo.train.passes_per_step) == (0.05, "reward", 4)
    reinforce = loaded("reinforce_pp").algorithm
    assert (reinforce.advantage, reinforce.whiten, reinforce.kl_place) == ("returns", True, "reward")
    baseline = loaded("reinforce_pp_baseline").algorithm
    assert (baseline.advantage, baseline.whiten, baseline.kl_place) == ("group_centered", True, "loss")
    spin = loaded("spin")
    assert spin.algorithm.reference == "synced" and spin.rollout.sync_every > 1 and spin.train.lr == 5e-7
    assert loaded("gkd").rollout.drawn_share == 0.5
    for name in ("dpo", "ipo", "simpo", "kto", "online_dpo", "spin"):
        assert 5e-7 <= loaded(name).train.lr <= 1e-6
    assert loaded("rm").train.lr == 1e-5


def test_the_first_update_of_gspo_dapo_and_cispo_is_not_the_only_one():
    """With one update the ratio is 1 everywhere: what these papers changed would never act."""
    assert all(loaded(name).train.updates_per_step > 1 for name in ("gspo", "dapo", "cispo", "sapo", "luspo"))


@pytest.mark.parametrize(("name", "reward"), [("rlhf", "reward_model"), ("rlaif", "judge")])
def test_learning_from_feedback_is_sgrpo_on_a_normalized_verdict(name, reward):
    config = loaded(name)
    assert config.reward.name == reward and config.reward.normalize == "running"
    assert config.reward.missing_eos_penalty > 0 and config.algorithm.kl_coef > 0
    assert all_algorithms()[name].loss is all_algorithms()["sgrpo"].loss
    assert all_algorithms()[name].summary != all_algorithms()["sgrpo"].summary
    assert loaded(name, "reward.name=gsm8k").reward.name == "gsm8k"


def test_the_buffer_of_dapo_is_a_fifth_of_the_completion():
    assert loaded("dapo").reward.overlong_buffer == 512 // 5
    assert loaded("dapo", "rollout.max_completion_tokens=100").reward.overlong_buffer == 20
    assert loaded("dapo", "rollout.max_completion_tokens=4", "rollout.stop_at_eos=false").reward.overlong_buffer == 0
    assert loaded("dapo", "reward.overlong_buffer=7").reward.overlong_buffer == 7


@pytest.mark.parametrize(
    ("signals", "lesson", "preset"),
    [
        ("Tokens", None, "sft"),
        ("Tokens", "documents", "cpt"),
        ("Tokens", "kept", "rft"),
        ("Rollouts", None, "sgrpo"),
        ("Pairs", None, "simpo"),
        ("ReferencedPairs", None, "dpo"),
        ("StepPairs", None, "dpo"),
        ("ReferencedPairs", "best_and_worst", "online_dpo"),
        ("Pairs", "self_play", "spin"),
        ("ScoredPairs", None, "rm"),
        ("Labeled", None, "kto"),
        ("Distributions", None, "kd"),
        ("Distributions", "mixed", "gkd"),
    ],
)
def test_a_loss_of_your_own_takes_the_preset_of_its_kind(signals, lesson, preset):
    def loss(seen):
        return seen

    loss.__annotations__["seen"] = signals
    own = describe("own", loss, lesson=lesson)
    assert preset_for(own, {}, lora=False).name == preset
    assert preset_for(own, {}, lora=True).name == f"{preset}+lora"
    assert set(BY_LESSON) >= {algorithm.lesson for algorithm in all_algorithms().values()}
