"""The metrics that answer "does it learn, and is it healthy" for either kind of run; others are asked for by name."""

from __future__ import annotations

MAIN_METRICS = (
    "reward/mean",
    "eval/reward",
    "eval/accuracy",
    "eval/standard_error",
    "eval/preference/accuracy",
    "preference/accuracy",
    "preference/margin",
    "loss",
    "eval/loss",
    "lr",
    "grad_norm",
    "entropy",
    "kl/ref",
    "gap/max",
    "completion/length",
    "groups/zero_variance",
)
