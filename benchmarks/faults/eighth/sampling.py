"""A sampler that draws from something else than the trainer believes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.faults.define import Fault


def min_p(_run: Path) -> None:
    """The server has a default of min_p = 0.5, and says the log-probs of what is left."""
    from oxrl_core.rollout import hf_worker

    def cut(scores: Any, top_p: float, top_k: int) -> Any:
        least = scores.amax(-1, keepdim=True) - 0.6931
        return scores.masked_fill(scores < least, -float("inf")).log_softmax(-1)

    hf_worker.truncated = cut


def bos_before_prompts(_run: Path) -> None:
    """The server tokenizes prompts itself, and puts a special token before each."""
    from oxrl_core.rollout.hf_worker import TransformersWorker

    right = TransformersWorker._prefill

    def prefixed(self: Any, prompts: Any) -> Any:
        return right(self, [((1, *ids), media) for ids, media in prompts])

    TransformersWorker._prefill = prefixed  # type: ignore[method-assign]


def head_is_tied(_run: Path) -> None:
    """The sampler's model has its head tied to the embeddings, and the trainer's has not."""
    from oxrl_core.rollout.hf_worker import TransformersWorker

    load = TransformersWorker.load_weights

    def tied(self: Any, weights: Any, version: int) -> None:
        load(self, weights, version)
        if version >= 8:
            self.model.lm_head.weight.data.copy_(self.model.model.embed_tokens.weight.data)

    TransformersWorker.load_weights = tied  # type: ignore[method-assign]


FAULTS = [
    # trl#6789, pain 3
    Fault(
        "min_p_of_the_server",
        "the server cuts every token below half of the likeliest one's probability",
        {"truncated_sampling", "logprob_gap"},
        "rloo",
        [],
        plant=min_p,
    ),
    # vllm#27515, pain 12
    Fault(
        "server_adds_a_token",
        "the sampler puts a special token before each prompt, and the trainer does not",
        {"logprob_gap"},
        "dapo",
        [],
        plant=bos_before_prompts,
    ),
    # pain 18: a save in between tied what was not tied
    Fault(
        "head_tied_from_8_on",
        "from step 8 on the sampler's head is a copy of its embeddings",
        {"weight_sync", "logprob_gap"},
        "sgrpo",
        [],
        plant=head_is_tied,
    ),
]
