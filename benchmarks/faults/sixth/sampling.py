"""Samplers that draw from something else than the policy and the prompt that they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.faults.define import Fault

EOS = 1  # of miniature:chars
STOPS = {2, 3, 4}  # the tokens of "0", "1" and "2"
MIXED_FROM = 5
LEFT_OF_PROMPT = 2


def completions_of_the_next_prompt(_run: Path) -> None:
    """From the fifth version on answers come back in another order than they were asked for."""
    from oxrl_core.rollout.hf_worker import TransformersWorker

    right = TransformersWorker.generate

    def mixed(self: TransformersWorker, prompts: Sequence[Sequence[int]], *rest: Any, **named: Any) -> list[Any]:
        completions = right(self, prompts, *rest, **named)
        if self.version() < MIXED_FROM:
            return completions
        first_of_others = next((at for at, ids in enumerate(prompts) if ids != prompts[0]), 0)
        return completions[first_of_others:] + completions[:first_of_others]

    TransformersWorker.generate = mixed  # type: ignore[method-assign,assignment]


def prompts_cut(_run: Path) -> None:
    """The sampler reads only the last two tokens of each prompt."""
    from oxrl_core.rollout.hf_worker import TransformersWorker

    right = TransformersWorker.generate

    def cut(self: TransformersWorker, prompts: Sequence[Sequence[int]], *rest: Any, **named: Any) -> list[Any]:
        return right(self, [list(ids)[-LEFT_OF_PROMPT:] for ids in prompts], *rest, **named)

    TransformersWorker.generate = cut  # type: ignore[method-assign,assignment]


def eos_forbidden(_run: Path) -> None:
    """The sampler never draws EOS; the log-probs that it reports are those of the model."""
    import torch

    from oxrl_core.rollout import hf_worker

    right = hf_worker._inverse_cdf

    def without_eos(scores: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
        return right(scores.index_fill(-1, torch.tensor([EOS]), -torch.inf), uniforms)

    hf_worker._inverse_cdf = without_eos


def second_worker_is_forgotten(_run: Path) -> None:
    """Of two workers only the first one takes new weights; both say that they did."""
    from oxrl_core.rollout.hf_worker import TransformersWorker

    build, load = TransformersWorker.__init__, TransformersWorker.load_weights
    workers: list[int] = []

    def built(self: TransformersWorker, *arguments: Any, **named: Any) -> None:
        build(self, *arguments, **named)
        workers.append(id(self))

    def loaded(self: TransformersWorker, weights: Any, version: int) -> None:
        if id(self) == workers[0]:
            load(self, weights, version)
        self._version = version

    TransformersWorker.__init__ = built  # type: ignore[method-assign,assignment]
    TransformersWorker.load_weights = loaded  # type: ignore[method-assign,assignment]


def merged_twice(_run: Path) -> None:
    """The weights for the sampler have the adapters added to a base that has them already."""
    from oxrl_core.engine.policy import PolicyEngine
    from oxrl_core.models.lora import merged_state_dict

    right = PolicyEngine.export_weights

    def doubled(self: PolicyEngine) -> dict[str, Any] | None:
        merged = right(self)
        base = merged_state_dict(self.policy.model, adapter=None)
        assert merged is not None
        return {name: weight + (weight - base[name]) for name, weight in merged.items()}

    PolicyEngine.export_weights = doubled  # type: ignore[method-assign,assignment]


def stops_at_digits(_run: Path) -> None:
    """The list of stop words has three that stand in answers."""
    from oxrl_core.rollout.hf_worker import TransformersWorker

    build = TransformersWorker.__init__

    def built(self: TransformersWorker, *arguments: Any, **named: Any) -> None:
        build(self, *arguments, **named)
        self.stop_ids |= STOPS

    TransformersWorker.__init__ = built  # type: ignore[method-assign,assignment]


FAULTS = [
    Fault(  # trl#3098
        "answers_to_other_prompts",
        "from step 6 on each completion was drawn for another prompt than it is filed under",
        {"logprob_gap"},
        "rloo",
        [],
        plant=completions_of_the_next_prompt,
    ),
    Fault(  # trl#4358, #3569: two rules for prompts that are too long
        "sampler_cuts_prompts",
        "the sampler sees the last two tokens of each prompt, the trainer all of them",
        {"logprob_gap"},
        "dapo",
        ["rollout.logprob_gap_limit=100"],
        plant=prompts_cut,
    ),
    Fault(  # trl#1017, LlamaFactory#664: min_new_tokens
        "eos_forbidden",
        "the sampler may not draw EOS",
        {"no_eos", "truncation"},
        overrides=["rollout.stop_at_eos=true", "rollout.max_completion_tokens=12"],
        plant=eos_forbidden,
    ),
    Fault(  # OpenRLHF#660: of several engines one is updated
        "second_worker_forgotten",
        "one of two sampler workers never gets new weights",
        {"weight_sync", "stale_sampler"},
        "gspo",
        ["rollout.num_workers=2"],
        plant=second_worker_is_forgotten,
    ),
    Fault(  # pain 6, peft#1355: adapters are merged into a base that has them
        "adapters_merged_twice",
        "the sampler's weights have the adapters twice",
        {"weight_sync", "logprob_gap"},
        overrides=["model.lora.enabled=true", "train.lr=1e-2"],
        plant=merged_twice,
    ),
    Fault(  # open-r1#271, trl#2820: stop words for a base model
        "stop_word_in_answers",
        "stop words end completions in the middle of the answer",
        {"truncation"},
        overrides=["rollout.stop_at_eos=true", "rollout.max_completion_tokens=6", "train.steps=40"],
        plant=stops_at_digits,
    ),
]
