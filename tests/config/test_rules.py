"""Values that contradict each other are refused with a reason and a way out; what can be meant is not."""

from __future__ import annotations

import re

import pytest

from oxrl_core.algorithms.base import all_algorithms
from oxrl_core.config.idle import NEEDS
from oxrl_core.config.keys import all_keys
from oxrl_core.config.load import load_config
from oxrl_core.errors import ConfigError

MINIMAL = {"run": {"name": "r"}, "model": {"path": "miniature:chars"}, "data": {"train": "reverse3"}}


def overrides_of(text: str) -> list[str]:
    """`sgrpo a.b=1 c.d=2`: the algorithm, then its overrides."""
    name, *others = text.split()
    teacher = ["algorithm.teacher=miniature:chars"] if all_algorithms()[name].signals == "Distributions" else []
    return [f"algorithm.name={name}", *teacher, *others]


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        # Ratios and clips
        ("gspo algorithm.clip_high=0.2", "algorithm.clip_high", "nothing is ever clipped"),
        ("luspo algorithm.clip_low=0.1", "algorithm.clip_low", "nothing is ever clipped"),
        ("sgrpo algorithm.ratio=sequence", "algorithm.clip_low", "nothing is ever clipped"),
        ("sgrpo rollout.top_p=0.9", "rollout.top_p", "nothing corrects for it"),
        ("sgrpo rollout.top_k=50", "rollout.top_k", "nothing corrects for it"),
        (
            "sgrpo rollout.sync_every=2 algorithm.reference=synced",
            "rollout.sync_every",
            "come from another policy than the one that is trained",
        ),
        ("rft rollout.sync_every=2", "rollout.sync_every", "a resumed run could not go on"),
        ("sgrpo rollout.pipeline=1", "rollout.pipeline", "come from the policy of one step ago"),
        ("rft rollout.pipeline=1 rollout.colocate=true", "rollout.pipeline", "take turns on the same GPUs"),
        (
            "gkd rollout.pipeline=1 rollout.sync_every=4 algorithm.reference=synced",
            "rollout.pipeline",
            "lags behind on purpose",
        ),
        ("sgrpo algorithm.mismatch=icepop algorithm.mismatch_low=1.1", "algorithm.mismatch_low", "leaves out 1"),
        ("sgrpo algorithm.mismatch=tis algorithm.mismatch_high=1", "algorithm.mismatch_high", "not above 1"),
        ("sgrpo algorithm.mismatch_high=5", "algorithm.mismatch_high", "algorithm.mismatch is off"),
        ("sgrpo algorithm.mismatch=mis algorithm.mismatch_low=0.1", "algorithm.mismatch_low", "only icepop"),
        # Groups
        ("sgrpo rollout.group_size=1", "rollout.group_size", "a group of 1 has nothing to compare with"),
        ("online_dpo rollout.group_size=1", "rollout.group_size", "one is both"),
        ("ppo rollout.dynamic_sampling=true", "rollout.dynamic_sampling", "those of a group of 1 never do"),
        ("spin rollout.dynamic_sampling=true", "rollout.dynamic_sampling", "there are no advantages"),
        ("sgrpo rollout.max_draws=3", "rollout.max_draws", "each step draws once"),
        # KL and reference
        ("sgrpo algorithm.kl_coef=0.1 algorithm.kl_estimator=k1", "algorithm.kl_estimator", "whose expectation is 0"),
        ("ppo algorithm.kl_place=loss", "algorithm.kl_estimator", "whose expectation is 0"),
        ("ppo algorithm.kl_estimator=unbiased", "algorithm.kl_estimator", "a number without gradient"),
        ("sgrpo algorithm.kl_place=reward", "algorithm.kl_place", "there is no KL"),
        ("sgrpo algorithm.kl_coef=0.1 algorithm.reference=synced", "algorithm.reference", "the KL is always 0"),
        ("dpo algorithm.reference=synced", "algorithm.reference", "no reference that changes"),
        ("dpo algorithm.kl_coef=0.1", "algorithm.kl_coef", "holds the policy near its reference by itself"),
        ("simpo algorithm.kl_coef=0.1", "algorithm.kl_coef", "simpo is supervised"),
        ("simpo algorithm.precompute_reference=true", "algorithm.precompute_reference", "only pairs of the data"),
        ("kto algorithm.precompute_reference=true", "algorithm.precompute_reference", "only pairs of the data"),
        ("online_dpo algorithm.precompute_reference=true", "algorithm.precompute_reference", "only pairs of the data"),
        # Critics
        ("sgrpo algorithm.critic=shared", "algorithm.critic", "only the advantage `gae` has a critic"),
        ("sgrpo algorithm.gae_lambda=0.9", "algorithm.gae_lambda", "only the advantage `gae` has a critic"),
        ("sgrpo algorithm.discount=0.9", "algorithm.discount", "only the advantages `returns` and `gae`"),
        ("ppo algorithm.value_coef=0.5", "algorithm.value_coef", "shares the policy's weights"),
        ("ppo algorithm.critic=shared algorithm.critic_lr=1e-4", "algorithm.critic_lr", "at its rate"),
        # Rewards and selection
        ("sgrpo reward.name=none", "reward.name", "nothing judges them"),
        ("rft reward.name=none", "reward.name", "nothing judges them"),
        ("spin reward.name=gsm8k", "reward.name", "nothing is judged but an evaluation"),
        ("gkd reward.clip=1", "reward.clip", "shaping changes what completions are compared by"),
        ("sgrpo rollout.stop_at_eos=false rollout.drop_truncated=true", "rollout.drop_truncated", "is cut off"),
        ("sgrpo reward.overlong_buffer=512", "reward.overlong_buffer", "every one of them would cost"),
        (
            "sgrpo rollout.stop_at_eos=false reward.missing_eos_penalty=1",
            "reward.missing_eos_penalty",
            "all pay the same",
        ),
        ("sgrpo selection.reward_threshold=0.5", "selection.reward_threshold", "only rft keeps some"),
        ("rft selection.min_margin=0.5", "selection.min_margin", "only online_dpo"),
        ("sgrpo rollout.drawn_share=0.5", "rollout.drawn_share", "only gkd"),
        ("gkd train.stop_at_reward=1", "train.stop_at_reward", "there are no rewards"),
        # Rows
        ("dpo data.packing=true", "data.packing", "so a row holds only one"),
        ("kto train.rows_per_step=1", "train.rows_per_step", "the completion of another row"),
        ("dpo algorithm.aggregation=sequence", "algorithm.aggregation", "no tokens to average"),
        ("sft train.updates_per_step=2", "train.updates_per_step", "sft is supervised"),
        ("dpo train.passes_per_step=2", "train.passes_per_step", "dpo is supervised"),
        ("sft algorithm.teacher=miniature:chars", "algorithm.teacher", "sft has no teacher"),
    ],
)
def test_a_contradiction_is_refused_at_its_key_with_the_reason(text, key, reason):
    with pytest.raises(ConfigError) as caught:
        load_config(MINIMAL, overrides_of(text))
    message = str(caught.value)
    assert re.search(rf"{re.escape(key)} = .* contradicts the rest", message) and reason in message
    assert "{" not in message.replace("{'", "")  # every reason and way out is filled in


def test_a_teacher_that_is_not_named_is_missed():
    for name in ("kd", "gkd"):
        with pytest.raises(ConfigError, match="learns from the distributions of a teacher, and none is named"):
            load_config(MINIMAL, [f"algorithm.name={name}"])


@pytest.mark.parametrize(
    "text",
    [
        "sgrpo rollout.top_p=0.9 algorithm.mismatch=tis",
        "rft rollout.top_p=0.9 rollout.top_k=50",  # a likelihood has no ratio to bias
        "online_dpo rollout.top_k=50",
        "sgrpo rollout.sync_every=4 algorithm.reference=synced algorithm.mismatch=tis",
        "gkd rollout.sync_every=4 algorithm.reference=synced",
        "sgrpo rollout.pipeline=1 algorithm.mismatch=tis",
        "rft rollout.pipeline=1",  # a likelihood has no ratio to bias
        "sgrpo algorithm.ratio=sequence algorithm.clip_low=3e-4 algorithm.clip_high=4e-4",
        "rloo algorithm.clip_high=0.2",  # a product over tokens, not a mean
        "ppo rollout.group_size=1",
        "ppo rollout.group_size=4 rollout.dynamic_sampling=true",
        "reinforce_pp rollout.group_size=1",
        "rft rollout.group_size=1",
        "ppo algorithm.kl_coef=0",  # the preset's kl_place is nobody's belief
        "ppo algorithm.advantage=group_zscore rollout.group_size=8",  # nor is its critic_lr
        "ppo algorithm.critic=shared algorithm.critic_lr=null algorithm.value_coef=0.5",
        "ppo algorithm.critic=shared",
        "sgrpo algorithm.kl_coef=0.1 algorithm.kl_estimator=unbiased",
        "sgrpo algorithm.kl_coef=0.1 algorithm.reference=synced train.updates_per_step=4",
        "spin reward.name=gsm8k data.eval={name:\\ reverse3,\\ split:\\ eval}",
        "sft reward.name=gsm8k",
        "dpo algorithm.precompute_reference=false model.lora.enabled=true",
        "rft model.lora.enabled=true model.lora.dropout=0.1",
        "sgrpo algorithm.mismatch=icepop algorithm.mismatch_low=0.5 algorithm.mismatch_high=5",
    ],
)
def test_what_can_be_meant_is_not_refused(text):
    parts = re.split(r"(?<!\\) ", text)
    name, *others = [part.replace("\\ ", " ") for part in parts]
    load_config(MINIMAL, [*overrides_of(name), *others])


def test_a_cap_of_cispo_below_one_is_refused_by_its_type():
    with pytest.raises(ConfigError, match=r"ratio_cap = 0\.2"):
        load_config(MINIMAL, ["algorithm.name=cispo", "algorithm.ratio_cap=0.2"])
    with pytest.raises(ConfigError, match="dual_clip = 1"):
        load_config(MINIMAL, ["algorithm.dual_clip=1.0"])


def test_every_need_speaks_of_keys_that_exist():
    assert {key for need in NEEDS for key in need.keys} <= set(all_keys())


def test_a_parameter_of_a_loss_that_hides_a_switch_is_refused(tmp_path, monkeypatch):
    (tmp_path / "hiding.py").write_text(
        "def loss(tokens: 'Tokens', *, discount: float = 0.5):\n    return -tokens.logprobs * discount\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="has a parameter 'discount', which is a switch of every loss"):
        load_config(MINIMAL, ["algorithm.name=hiding:loss"])
