"""Losses, adapters and lessons that are not what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.faults.define import HERE, Fault, own
from benchmarks.faults.patches import without_gradient
from benchmarks.faults.seventh_plants import HALF_TAUGHT, half_taught

PLANTS = HERE / "seventh_plants.py"


def both_halves_zero(_run: Path) -> None:
    """Both matrices of every adapter begin at 0, as after the loading of empty ones."""
    from oxrl_core.engine import policy

    right = policy.add_lora

    def empty(*arguments: Any, **named: Any) -> Any:
        model = right(*arguments, **named)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data.zero_()
        return model

    policy.add_lora = empty


def worst_is_best(run: Path) -> None:
    """The list of rewards is sorted the other way round than the pairs are made."""
    from oxrl_core.train import lessons
    from oxrl_core.types import PairExample

    half_taught(run)
    right = lessons.LESSONS["best_and_worst"]

    def turned(*arguments: Any) -> Any:
        lesson = right(*arguments)
        pairs: Any = lesson.examples
        return replace(lesson, examples=[PairExample(pair.rejected, pair.chosen, pair.margin) for pair in pairs])

    lessons.LESSONS["best_and_worst"] = turned


def rewards_masked(_run: Path) -> None:
    """The rewards are multiplied with a mask that stands one column beside them."""
    from oxrl_core.train import lessons

    right = lessons.shape
    lessons.shape = lambda *arguments: [0.0 * reward for reward in right(*arguments)]


def norms_alone(_run: Path) -> None:
    """The list of what is to be trained names the norms and nothing else."""
    without_gradient(lambda name: "norm" not in name)


FAULTS = [
    Fault(  # pain 18: empty adapters
        "adapters_begin_empty",
        "both matrices of the adapters begin at 0, and none of them gets a gradient",
        {"gradient_dead", "frozen_weights", "weights_unmoved"},
        "sft",
        ["model.lora.enabled=true", "train.lr=1e-2"],
        plant=both_halves_zero,
    ),
    Fault(  # pain 14: the order of two lists
        "worst_is_best",
        "of each group the worst completion is preferred to the best",
        {"learns_backwards"},
        "online_dpo",
        [f"model.path={HALF_TAUGHT}", "train.prompts_per_step=16", "train.steps=30"],
        plant=worst_is_best,
    ),
    Fault(  # "the reward was always masked to 0": reward by token, mask by prediction
        "rewards_masked",
        "the rewards are masked to 0 before they become advantages",
        {"shaped_reward", "reward_flat"},
        "ppo",
        ["train.prompts_per_step=16", "train.steps=30"],
        plant=rewards_masked,
    ),
    Fault(  # pain 17: completions of one token
        "length_less_one",
        "an own loss divides by the length less EOS, and some completions are nothing but EOS",
        {"not_finite"},
        "sgrpo",
        [f"algorithm.name={own('sgrpo_over_length_less_one', PLANTS)}", "rollout.stop_at_eos=true"],
    ),
    Fault(  # LLaMA-Factory: the names of the modules to train
        "norms_alone",
        "everything is frozen but the norms",
        {"frozen_weights"},
        "rloo",
        [],
        plant=norms_alone,
    ),
]
