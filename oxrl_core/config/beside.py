"""Which models a run holds beside the policy: they cost memory, and each has to be there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from oxrl_core.algorithms.base import REFERENCED_SIGNALS, Algorithm
from oxrl_core.config.schema import Config

Reference = Literal["none", "cached", "adapter", "model"]
Critic = Literal["none", "shared", "separate"]


@dataclass(frozen=True)
class Beside:
    """The models beside the policy."""

    reference: Reference  # none, measured beforehand and freed, the policy's weights under other adapters, or a model
    critic: Critic
    teacher: str | None  # its path, as the configuration names it
    reward_model: str | None


def reward_model_params(config: Config) -> Mapping[str, Any] | None:
    """The parameters of the reward model that judges, alone or as a part of a composite; None where none does."""
    parts: Any = config.reward.params.get("parts") if config.reward.name == "composite" else []
    named: list[tuple[Any, Any]] = [(config.reward.name, config.reward.params)]
    for part in cast("list[Any]", parts) if isinstance(parts, list) else []:
        if isinstance(part, Mapping):
            one = cast("Mapping[str, Any]", part)
            named.append((one.get("name"), one.get("params") or {}))
    return next((params for name, params in named if name == "reward_model"), None)


def models_beside(config: Config, algorithm: Algorithm) -> Beside:
    """What this configuration needs beside the policy."""
    switches = config.algorithm
    reference: Reference = "adapter" if config.model.lora.enabled else "model"
    if switches.precompute_reference:
        reference = "cached"
    is_compared = algorithm.signals in REFERENCED_SIGNALS or switches.kl_coef > 0
    # Where the sampler lags behind, the checkpoint keeps its weights as the reference.
    if not is_compared and not (config.rollout.sync_every > 1 and switches.reference == "synced"):
        reference = "none"
    has_critic = algorithm.lesson == "advantages" and switches.advantage == "gae"
    path = (reward_model_params(config) or {}).get("path") if algorithm.kind == "rl" else None
    return Beside(
        reference=reference,
        critic=switches.critic if has_critic else "none",
        teacher=switches.teacher if algorithm.signals == "Distributions" else None,
        reward_model=path if isinstance(path, str) else None,
    )
