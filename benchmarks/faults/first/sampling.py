"""A sampler that draws from another policy."""

from __future__ import annotations

from pathlib import Path

from benchmarks.faults.define import Fault


def weights_never_arrive(_run: Path) -> None:
    """The sampler takes new weights and does nothing with them."""
    from oxrl_core.rollout.hf_worker import TransformersWorker

    TransformersWorker.load_weights = lambda self, weights, version: setattr(self, "version", version)  # type: ignore[method-assign]


def nobody_checks(run: Path) -> None:
    """As above, and the check after the sync is gone."""
    from oxrl_core.train import rl

    weights_never_arrive(run)
    for name in ("check_fingerprint",):
        if hasattr(rl, name):
            setattr(rl, name, lambda *arguments: 0.0)


FAULTS = [
    Fault(
        "weights_never_arrive",
        "weights are handed over and not loaded",
        {"weight_sync", "stale_sampler"},
        plant=weights_never_arrive,
    ),
    Fault(
        "stale_unchecked",
        "weights are not loaded, and the sync is not checked",
        {"weight_sync", "stale_sampler"},
        overrides=["rollout.logprob_gap_limit=100"],
        plant=nobody_checks,
    ),
]
