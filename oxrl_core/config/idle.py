"""Keys that somebody set and that nothing would act on beside the other values. A silent key is a wrong belief.

A value that is the default, or that the preset of the algorithm chose, is nobody's belief and never reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from oxrl_core.algorithms.base import JUDGED_LESSONS, REFERENCED_SIGNALS, Algorithm
from oxrl_core.config.keys import section_of
from oxrl_core.config.presets import preset_for
from oxrl_core.config.schema import Config

# Their losses have one value for a whole pair or labeled row.
PAIRWISE = ("pairs", "labeled", "best_and_worst", "self_play")
WORDS_OF_LESSON = {
    "examples": "is supervised: it learns from the completions of the data",
    "documents": "is supervised: it learns from the texts of the data",
    "pairs": "is supervised: it learns from the preferences of the data",
    "labeled": "is supervised: it learns from the labels of the data",
    "advantages": "learns from drawn completions that are judged and compared",
    "kept": "learns from the drawn completions that are good enough",
    "best_and_worst": "learns from the best and the worst completion of each prompt",
    "self_play": "learns from the data's completions against its own",
    "mixed": "learns from a teacher, on completions of the data and of its own",
}


@dataclass(frozen=True)
class Need:
    """What keys need to have an effect, and why they have none without it."""

    keys: tuple[str, ...]
    is_met: Callable[[Config, Algorithm], bool]
    reason: str  # of {name}, which {learns} from something
    fix: str = "remove {key}"


def _compares(config: Config, algorithm: Algorithm) -> bool:
    return algorithm.lesson == "advantages"


NEEDS = (
    Need(
        ("algorithm.kl_coef",),
        lambda config, algorithm: algorithm.signals not in REFERENCED_SIGNALS,
        "{name} holds the policy near its reference by itself, with its beta",
        "remove {key}, or change algorithm.beta",
    ),
    Need(
        (
            *("algorithm.kl_coef", "algorithm.kl_place", "algorithm.kl_estimator", "algorithm.entropy_coef"),
            *("algorithm.advantage", "algorithm.advantage_scale", "algorithm.whiten", "algorithm.mismatch"),
            *("rollout.dynamic_sampling", "rollout.drop_truncated", "train.passes_per_step", "train.updates_per_step"),
        ),
        _compares,
        "{name} {learns}; there are no advantages for it to act on",
        "remove {key}, or choose an algorithm such as sgrpo",
    ),
    Need(
        ("reward.overlong_buffer", "reward.missing_eos_penalty", "reward.normalize", "reward.clip"),
        lambda config, algorithm: algorithm.lesson in ("advantages", "best_and_worst"),
        "{name} {learns}; shaping changes what completions are compared by",
    ),
    Need(
        ("train.stop_at_reward",),
        lambda config, algorithm: algorithm.lesson in JUDGED_LESSONS,
        "{name} {learns}; there are no rewards",
    ),
    Need(
        ("reward.name",),
        # Where nothing else is judged, it judges the evaluation. A supervised run may carry one along: files of the
        # older dialect always name one.
        lambda config, algorithm: (
            algorithm.lesson in JUDGED_LESSONS
            or algorithm.kind == "sl"
            or config.reward.name == "none"
            or bool(config.data.eval)
        ),
        "{name} {learns}; nothing is judged but an evaluation, and there is no data.eval",
        "set reward.name: none, or data.eval",
    ),
    Need(
        ("algorithm.discount",),
        lambda config, algorithm: config.algorithm.advantage in ("returns", "gae"),
        "only the advantages `returns` and `gae` look at each token's own future",
    ),
    Need(
        ("algorithm.gae_lambda", "algorithm.critic", "algorithm.critic_lr", "algorithm.value_clip"),
        lambda config, algorithm: config.algorithm.advantage == "gae",
        "only the advantage `gae` has a critic",
        "set algorithm.advantage: gae, or remove {key}",
    ),
    Need(
        ("algorithm.critic_lr",),
        lambda config, algorithm: config.algorithm.critic == "separate",
        "a shared critic is trained with the policy, at its rate",
        "remove {key} and set algorithm.value_coef, or set algorithm.critic: separate",
    ),
    Need(
        ("algorithm.value_coef",),
        lambda config, algorithm: config.algorithm.advantage == "gae" and config.algorithm.critic == "shared",
        "only a critic that shares the policy's weights adds its loss to the policy's",
        "set algorithm.critic: shared with algorithm.advantage: gae, or remove {key}",
    ),
    Need(
        ("algorithm.kl_place", "algorithm.kl_estimator"),
        lambda config, algorithm: config.algorithm.kl_coef > 0,
        "algorithm.kl_coef is 0, so there is no KL",
        "set algorithm.kl_coef above 0 (0.05 is usual in the reward), or remove {key}",
    ),
    Need(
        ("algorithm.mismatch_level", "algorithm.mismatch_high"),
        lambda config, algorithm: config.algorithm.mismatch != "off",
        "algorithm.mismatch is off",
        "set algorithm.mismatch to tis, icepop or mis, or remove {key}",
    ),
    Need(
        ("algorithm.mismatch_low",),
        lambda config, algorithm: config.algorithm.mismatch == "icepop",
        "only icepop has a lower end",
        "set algorithm.mismatch: icepop, or remove {key}",
    ),
    Need(
        ("algorithm.aggregation",),
        lambda config, algorithm: algorithm.lesson not in PAIRWISE,
        "{name} has one value for a whole pair or row, so there are no tokens to average",
    ),
    Need(
        ("algorithm.reference",),
        lambda config, algorithm: (
            algorithm.kind == "rl"
            and (
                config.algorithm.kl_coef > 0 or algorithm.signals in REFERENCED_SIGNALS or config.rollout.sync_every > 1
            )
        ),
        "{name} {learns} and needs no reference that changes",
    ),
    Need(
        ("algorithm.precompute_reference",),
        lambda config, algorithm: algorithm.lesson == "pairs" and algorithm.signals in REFERENCED_SIGNALS,
        "only pairs of the data that are compared with a reference are known before the run",
    ),
    Need(
        ("algorithm.teacher",),
        lambda config, algorithm: algorithm.signals == "Distributions",
        "{name} has no teacher",
        "remove {key}, or choose kd or gkd",
    ),
    Need(
        ("selection.reward_threshold", "selection.max_per_prompt"),
        lambda config, algorithm: algorithm.lesson == "kept",
        "{name} {learns}; only rft keeps some of them by their reward",
    ),
    Need(
        ("selection.min_margin",),
        lambda config, algorithm: algorithm.lesson == "best_and_worst",
        "{name} {learns}; only online_dpo makes pairs by the reward",
    ),
    Need(
        ("rollout.drawn_share",),
        lambda config, algorithm: algorithm.lesson == "mixed",
        "{name} {learns}; only gkd mixes drawn completions with those of the data",
    ),
    Need(
        ("rollout.max_draws",),
        lambda config, algorithm: config.rollout.dynamic_sampling,
        "rollout.dynamic_sampling is off, so each step draws once",
        "set rollout.dynamic_sampling: true, or remove {key}",
    ),
)


def idle_keys(config: Config, algorithm: Algorithm) -> Iterator[tuple[str, str, str]]:
    """Every key that was set and has no effect, with the reason and the way out; each key once."""
    preset = preset_for(algorithm, config.model_dump(), lora=config.model.lora.enabled).values()
    told: set[str] = set()
    for need in NEEDS:
        if need.is_met(config, algorithm):
            continue
        for key in need.keys:
            if key not in told and _value(config, key) not in (_default(key), preset.get(key, _default(key))):
                told.add(key)
                reason = need.reason.format(name=algorithm.name, learns=WORDS_OF_LESSON[algorithm.lesson])
                yield key, reason, need.fix.format(key=key)


def _value(config: Config, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(config, section), name)


def _default(key: str) -> Any:
    section = section_of(key)
    assert section is not None
    return section.model_fields[key.split(".")[1]].default
