"""What an algorithm changes about the defaults before the registry, your file and your overrides speak.

Each number stands beside its reason. Parameters of the loss itself (`clip_low`, ...) are not here: their defaults are
in the signature of the loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Choice:
    """One value of a preset and why it is that."""

    key: str
    value: Any
    reason: str


@dataclass(frozen=True)
class Preset:
    """The choices of one algorithm."""

    name: str
    choices: tuple[Choice, ...]

    def values(self) -> dict[str, Any]:
        """Dotted key -> value."""
        return {choice.key: choice.value for choice in self.choices}

    def reasons(self) -> dict[str, str]:
        """Dotted key -> reason."""
        return {choice.key: choice.reason for choice in self.choices}


SGRPO = Preset(
    "sgrpo",
    (
        Choice("rollout.group_size", 8, "the smallest group whose mean is a steady baseline; DeepSeekMath used 64"),
        Choice("rollout.temperature", 1.0, "the policy itself is sampled, so the log-prob ratio starts at exactly 1"),
        Choice("rollout.max_completion_tokens", 512, "256 cut off more than half of the answers to GSM8K"),
        Choice("train.lr", 1e-6, "of DeepSeekMath and DAPO for full weights; 10 times more diverges"),
        Choice("train.lr_schedule", "constant", "the reward, not the schedule, says when RL is done"),
        Choice("train.prompts_per_step", 32, "256 rollouts a step at group size 8"),
        Choice("train.updates_per_step", 1, "strictly on-policy: every update has rollouts of its own"),
        Choice("train.weight_decay", 0.0, "the updates are small; decay would pull harder than the gradient"),
        Choice("algorithm.kl_coef", 0.0, "off as in DAPO: no reference model in memory; DeepSeekMath used 0.04"),
    ),
)

SFT = Preset(
    "sft",
    (
        Choice("train.lr", 2e-5, "usual for full weights of 0.5B to 10B parameters"),
        Choice("train.lr_schedule", "linear", "falling to 0 over the run: the last steps average the noise out"),
        Choice("train.rows_per_step", 32, "large enough for a steady gradient, small enough for many steps"),
        Choice("train.epochs", 1.0, "a second pass starts to memorise small data sets"),
        Choice("data.packing", True, "no step is spent on padding where the model keeps packed examples apart"),
    ),
)

PRESETS = {preset.name: preset for preset in (SGRPO, SFT)}

# An adapter has far fewer weights to move and starts from zero: about ten times the learning rate of full weights is
# best for both kinds of training.
LORA_LR_FACTOR = 10


def preset_for(algorithm: str, kind: str, *, lora: bool) -> Preset:
    """The preset of an algorithm; one of your own takes the preset of its kind (sgrpo for RL, sft for supervised)."""
    preset = PRESETS.get(algorithm) or (SGRPO if kind == "rl" else SFT)
    if not lora:
        return preset
    choices = tuple(
        Choice(c.key, c.value * LORA_LR_FACTOR, f"{LORA_LR_FACTOR} x {c.value:g}: adapters want about ten times more")
        if c.key == "train.lr"
        else c
        for c in preset.choices
    )
    return Preset(f"{preset.name}+lora", choices)
