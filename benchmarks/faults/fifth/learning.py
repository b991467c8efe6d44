"""Losses, gradients, advantages and teachers that are not what they should be."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from benchmarks.faults.define import HERE, Fault, own
from benchmarks.faults.fifth_plants import edit_config
from benchmarks.faults.fourth_plants import GENTLE, begins_taught
from benchmarks.faults.patches import after_building

PLANTS = HERE / "fifth_plants.py"


def _scaled_gradients(factor: Any) -> None:
    """Every gradient is multiplied by a factor that depends on the steps behind it."""

    def listen(engine: Any) -> None:
        for parameter in engine.policy.parameters():
            parameter.register_hook(lambda gradient: gradient * factor(engine.num_steps))

    after_building(listen)


def added_up_while_saving(_run: Path) -> None:
    """At every tenth step, where a checkpoint is due, gradients are reduced over and over again."""
    _scaled_gradients(lambda step: 200.0 if step % 10 == 9 else 1.0)


def annealed_below_zero(_run: Path) -> None:
    """The weight of the loss is annealed from 1 by a tenth a step, and nobody has said that it ends at 0."""
    _scaled_gradients(lambda step: 1.0 - step / 10)


def deviation_without_epsilon(run: Path) -> None:
    """Rewards are divided by their deviation, which is 0 where a whole group is right."""
    from oxrl_core import advantages

    begins_taught(run, 20)

    def divided(rewards: Any) -> list[float]:
        mean = sum(rewards) / len(rewards)
        deviation = math.sqrt(sum((value - mean) ** 2 for value in rewards) / len(rewards))
        return [(value - mean) / deviation if deviation else math.nan for value in rewards]

    advantages.ADVANTAGES["group_centered"] = divided  # type: ignore[index]


def advantages_of_the_next(_run: Path) -> None:
    """Completions were sorted after their advantages had been computed: each has that of another."""
    from oxrl_core.train import credit

    right = credit._of_groups
    credit._of_groups = lambda *arguments: right(*arguments).roll(3)


def teacher_is_student(run: Path) -> None:
    """The teacher's folder is that of the student."""
    from oxrl_core.models.miniature import make_miniature

    folder = make_miniature("chars", run / "student", 0)

    def name(config: Any) -> None:
        config["model"]["path"] = config["algorithm"]["teacher"] = str(folder)

    edit_config(run, name)


FAULTS = [
    Fault(
        "policy_and_reference_swapped",
        "the log-ratios are those of the reference to the policy",
        {"learns_backwards"},
        "ipo",
        [f"algorithm.name={own('ipo_with_swapped_models', PLANTS)}"],
    ),
    Fault(
        "added_up_while_saving",
        "at every tenth step the gradient is two hundred times too large",
        {"gradient_spike"},
        "kto",
        plant=added_up_while_saving,
    ),
    Fault(
        "annealed_below_zero",
        "the weight of the loss is negative from step 11 on",
        {"diverged", "learns_backwards"},
        "cpt",
        ["train.steps=36"],
        plant=annealed_below_zero,
    ),
    Fault(
        "deviation_without_epsilon",
        "rewards of a group are divided by a deviation of 0",
        {"not_finite", "zero_variance"},
        "cispo",
        [*GENTLE],
        plant=deviation_without_epsilon,
    ),
    Fault(
        "advantages_of_the_next",
        "each completion has the advantage of another one",
        {"reward_flat", "learns_backwards"},
        "dapo",
        ["train.steps=36"],
        plant=advantages_of_the_next,
    ),
    Fault(
        "teacher_is_student",
        "the teacher is the student",
        {"gradient_dead", "loss_flat", "nothing_to_learn"},
        "kd",
        ["algorithm.alpha=0", "train.lr=1e-4"],
        plant=teacher_is_student,
    ),
]
