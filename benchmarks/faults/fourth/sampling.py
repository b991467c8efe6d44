"""Samplers that draw from another policy, ever more slowly, or keep what they have drawn."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.faults.define import Fault
from benchmarks.faults.patches import before_updates
from benchmarks.faults.plants import made_rows
from oxrl_core.datasets.tiny import reverse3

hoard: list[bytearray] = []


def sync_stops_at_12(_run: Path) -> None:
    """From version 12 on the sampler's broadcast group is broken: it says yes, and keeps what it had."""
    from oxrl_core.rollout.hf_worker import TransformersWorker

    right = TransformersWorker.load_weights

    def broken(self: Any, weights: Any, version: int) -> None:
        if version < 12:
            right(self, weights, version)
        self._version = version

    TransformersWorker.load_weights = broken  # type: ignore[method-assign]


def _bent(bend: Any) -> None:
    """Has the scores (B, V) that the sampler draws from bent."""
    from oxrl_core.rollout import hf_worker

    right = hf_worker.truncated
    hf_worker.truncated = lambda scores, top_p, top_k: bend(right(scores, top_p, top_k))


def logit_bias(_run: Path) -> None:
    """The sampler has a bias against the end of a text that the trainer knows nothing of."""

    def bend(scores: Any) -> Any:
        scores = scores.clone()
        scores[:, 1] -= 2.0
        return scores.log_softmax(-1)

    _bent(bend)


def padding_is_read(_run: Path) -> None:
    """Prompts are padded at the left, and the sampler reads the padding as text."""
    import torch

    from oxrl_core.rollout.hf_worker import TransformersWorker

    build = TransformersWorker.__init__

    def built(self: Any, *arguments: Any, **named: Any) -> None:
        build(self, *arguments, **named)
        forward = self.model.forward

        def unmasked(*inputs: Any, attention_mask: Any = None, **rest: Any) -> Any:
            whole = None if attention_mask is None else torch.ones_like(attention_mask)
            return forward(*inputs, attention_mask=whole, **rest)

        self.model.forward = unmasked

    TransformersWorker.__init__ = built  # type: ignore[method-assign]


def caches_are_kept(_run: Path) -> None:
    """The sampler keeps the cache of every generation."""
    from oxrl_core.rollout.hf_worker import TransformersWorker

    right = TransformersWorker.generate

    def kept(self: Any, *arguments: Any, **named: Any) -> Any:
        hoard.append(bytearray(b"x") * (6 * 2**20))
        return right(self, *arguments, **named)

    TransformersWorker.generate = kept  # type: ignore[method-assign]


def history_is_searched(_run: Path) -> None:
    """A callback goes through all steps before at every step."""
    before_updates(lambda engine: time.sleep(0.0004 * engine.num_steps**2))


def _of_two_lengths() -> str:
    rows: list[dict[str, object]] = [
        {"prompt": row["prompt"] if number % 2 else row["prompt"][1:], "answer": row["prompt"][1:3][::-1]}
        for number, row in enumerate(reverse3("train", 0))
    ]
    return made_rows("of-two-lengths", rows)


FAULTS = [
    Fault(
        "sync_stops_at_12",
        "from step 12 on new weights do not reach the sampler",
        {"weight_sync", "stale_sampler", "logprob_gap"},
        "gspo",
        plant=sync_stops_at_12,
    ),
    Fault(
        "logit_bias",
        "the sampler has a bias that the trainer does not know",
        {"logprob_gap"},
        "dapo",
        plant=logit_bias,
    ),
    Fault(
        "padding_is_read",
        "the sampler reads left padding as text",
        {"logprob_gap"},
        "rloo",
        [f"data.train.0.name={_of_two_lengths()}"],
        plant=padding_is_read,
    ),
    Fault(
        "history_is_searched",
        "a callback takes longer with every step",
        {"slow_step"},
        "ipo",
        ["train.steps=36"],
        plant=history_is_searched,
    ),
    Fault(
        "caches_are_kept",
        "the sampler keeps six megabytes of every generation",
        {"memory_leak"},
        overrides=["train.steps=36"],
        plant=caches_are_kept,
    ),
]
