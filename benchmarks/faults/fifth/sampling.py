"""Samplers that draw from another policy than the one that is trained, or wait."""

from __future__ import annotations

import time
from copy import deepcopy
from pathlib import Path
from typing import Any

from benchmarks.faults.define import Fault


def versions_behind(_run: Path) -> None:
    """Generation runs on a replica that is served from a queue of weights, four versions behind what it says."""
    from oxrl_core.rollout.hf_worker import TransformersWorker

    load, decode = TransformersWorker.load_weights, TransformersWorker._decode

    def queued(self: Any, weights: Any, version: int) -> None:
        if not hasattr(self, "replica"):
            self.replica, self.queue = deepcopy(self.model), []
        load(self, weights, version)
        self.queue.append(deepcopy(self.model.state_dict()))
        if len(self.queue) > 4:
            self.replica.load_state_dict(self.queue.pop(0))

    def behind(self: Any, *arguments: Any) -> Any:
        shown, self.model = self.model, self.replica
        try:
            return decode(self, *arguments)
        finally:
            self.model = shown

    TransformersWorker.load_weights = queued  # type: ignore[method-assign]
    TransformersWorker._decode = behind  # type: ignore[method-assign]


def sampler_in_eight_bits(_run: Path) -> None:
    """The sampler quantizes every matrix that it is given to eight bits."""
    from oxrl_core.rollout.hf_worker import TransformersWorker

    load = TransformersWorker.load_weights

    def quantized(value: Any) -> Any:
        if value.ndim < 2:
            return value
        scale = value.abs().amax() / 127
        return (value / scale).round() * scale

    TransformersWorker.load_weights = lambda self, weights, version: load(  # type: ignore[method-assign]
        self, {name: quantized(value) for name, value in weights.items()}, version
    )


def defaults_of_the_model(_run: Path) -> None:
    """The sampler takes top_k from the model's generation_config.json, which the trainer does not know."""
    from oxrl_core.rollout import hf_worker

    right = hf_worker.truncated
    hf_worker.truncated = lambda scores, top_p, _top_k: right(scores, top_p, 4)


def slow_link(_run: Path) -> None:
    """From version 12 on weights go over the slow one of two networks."""
    from oxrl_core.rollout.hf_worker import TransformersWorker

    load = TransformersWorker.load_weights

    def slowly(self: Any, weights: Any, version: int) -> None:
        if version >= 12:
            time.sleep(0.5)
        load(self, weights, version)

    TransformersWorker.load_weights = slowly  # type: ignore[method-assign]


FAULTS = [
    Fault(
        "versions_behind",
        "completions are drawn with weights that are four versions old",
        {"stale_sampler", "logprob_gap", "weight_sync"},
        "ppo",
        ["train.prompts_per_step=8"],
        plant=versions_behind,
    ),
    Fault(
        "sampler_in_eight_bits",
        "the sampler quantizes the weights",
        {"logprob_gap", "weight_sync"},
        "dapo",
        plant=sampler_in_eight_bits,
    ),
    Fault(
        "defaults_of_the_model",
        "the sampler draws from the four likeliest tokens without being asked to",
        {"truncated_sampling", "logprob_gap"},
        "gspo",
        plant=defaults_of_the_model,
    ),
    Fault(
        "slow_link",
        "from step 12 on a weight sync takes most of a step",
        {"slow_step"},
        plant=slow_link,
    ),
]
