"""What a miniature is trained on: the tiny task of its kind, for a dozen steps."""

from __future__ import annotations

from pathlib import Path

MINIATURE_STEPS = 12
# What an onboarding calls its tasks -> algorithm, and the task of the configurator.
TASK_CHOICES = {
    "": ("sgrpo", ""),
    "math": ("sgrpo", "math"),
    "code": ("sgrpo", "code"),
    "vision": ("sgrpo", "image"),
    "audio": ("sgrpo", "audio"),
    "chat": ("sft", ""),
    "preference": ("dpo", ""),
}


def miniature_config(miniature: str, task: str, home: Path) -> str:
    """The configuration of a miniature. Rows of the true task are too long for it: it learns the tiny one."""
    from swarm.configure import generate_config

    algorithm, wanted = TASK_CHOICES[task]
    own = wanted if wanted in ("image", "audio") else ""
    return generate_config(miniature, algorithm, gpus=0, task=own, home=home).config_yaml


def miniature_wishes(task: str) -> list[str]:
    """What its run has besides: a dozen steps, and a verdict that random weights can get some of."""
    wishes = [f"train.steps={MINIATURE_STEPS}"]
    if TASK_CHOICES[task][0] == "sgrpo":
        wishes += ["reward.name=swarm.onboard.reward:share_of_letters", "reward.self_test_rows=0"]
    return wishes
