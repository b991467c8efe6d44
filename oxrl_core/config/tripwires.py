"""The section `tripwires` of the configuration."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from oxrl_core.config.section import NonNegative, Positive, Section

TRIPWIRE_CODES = (
    "double_bos",
    "entropy_high",
    "entropy_low",
    "gradient_dead",
    "gradient_spike",
    "kl_high",
    "logprob_gap",
    "lora_unbound",
    "lost_updates",
    "lr_floor",
    "mask_coverage",
    "no_eos",
    "not_finite",
    "reward_flat",
    "slow_step",
    "truncation",
    "verifier_errors",
    "weight_sync",
    "zero_variance",
)  # tests compare them with those that ring


class TripwiresConfig(Section):
    enabled: bool = True
    """Watch every step for what goes wrong in silence, and say it as an alert (oxrl_core/train/tripwires)."""
    stop_on: tuple[str, ...] = ()
    """Codes of alerts that end the run with an error, as `gradient_spike`."""
    self_test_prompts: NonNegative = 2
    """RL: prompts that trainer and sampler read alike, or the run ends before its first update; 0: no test."""
    truncation_limit: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of completions that may be cut off, over ten steps."""
    verifier_error_limit: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of a step's completions that the reward may fail to judge."""
    lost_update_limit: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the updates that may be rounded away when they are added to the weights."""
    kl_limit: Annotated[float, Field(gt=0)] = 3.0
    """Largest KL to the reference per token; a token that the reference gave 1 % and is now certain has 3.6."""
    kl_target: Annotated[float, Field(gt=0)] | None = None
    """KL per token that you mean to reach; ten times that is an alert as well."""
    reward_flat_steps: Positive = 10
    """Steps without a right answer, while its form is rewarded, before it is said."""

    @field_validator("stop_on")
    @classmethod
    def _know_codes(cls, codes: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [code for code in codes if code not in TRIPWIRE_CODES]
        if unknown:
            raise ValueError(f"no tripwire is called {unknown[0]}; there are: {', '.join(TRIPWIRE_CODES)}")
        return codes
