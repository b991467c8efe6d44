"""Samplers that draw otherwise than the trainer believes, or say it otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.faults.define import Fault

PENALTY = 1.5


def always_greedy(_run: Path) -> None:
    """The sampler takes the likeliest token, whatever it is asked for."""
    from oxrl_core.rollout.hf_worker import TransformersWorker

    right = TransformersWorker._decode

    def likeliest(self: Any, prompts: Any, seeds: Any, temperature: float, max_tokens: int, greedy: bool) -> Any:
        return right(self, prompts, seeds, temperature, max_tokens, True)

    TransformersWorker._decode = likeliest  # type: ignore[method-assign]


def repetitions_cost(_run: Path) -> None:
    """generation_config.json of the model asks for a repetition penalty, and the sampler obeys it."""
    import torch

    from oxrl_core.rollout.hf_worker import TransformersWorker

    prefill, build = TransformersWorker._prefill, TransformersWorker.__init__
    seen: dict[int, Any] = {}  # of the worker: the tokens (B, V) that each row has had

    def penalized(logits: Any, had: Any) -> Any:
        return torch.where(had, torch.where(logits > 0, logits / PENALTY, logits * PENALTY), logits)

    def prefilled(self: Any, prompts: Sequence[Any]) -> Any:
        logits, cache, mask, shift = prefill(self, prompts)
        had = torch.zeros_like(logits, dtype=torch.bool)
        for row, (ids, _) in enumerate(prompts):
            had[row, list(ids)] = True
        seen[id(self)] = had
        return penalized(logits, had), cache, mask, shift

    def built(self: Any, *arguments: Any, **named: Any) -> None:
        build(self, *arguments, **named)

        def after(_model: Any, _arguments: Any, given: dict[str, Any], output: Any) -> None:
            if "past_key_values" in given and "logits_to_keep" not in given:  # a token after the first
                seen[id(self)].scatter_(1, given["input_ids"], True)
                output.logits = penalized(output.logits[:, -1], seen[id(self)])[:, None]

        self.model.register_forward_hook(after, with_kwargs=True)

    TransformersWorker._prefill, TransformersWorker.__init__ = prefilled, built  # type: ignore[method-assign]


def layers_exchanged(_run: Path) -> None:
    """The first two layers have each other's names on the way to the sampler."""
    from oxrl_core.rollout.hf_worker import TransformersWorker

    right = TransformersWorker.load_weights

    def other(name: str) -> str:
        return name.replace(".0.", ".?.").replace(".1.", ".0.").replace(".?.", ".1.")

    def loaded(self: Any, weights: Any, version: int) -> None:
        right(self, {other(name): weight for name, weight in weights.items()}, version)

    TransformersWorker.load_weights = loaded  # type: ignore[method-assign]


def prefixes_are_kept(_run: Path) -> None:
    """The sampler has read a prompt once and does not read it again, though its weights are others by then."""
    import torch
    from transformers import DynamicCache

    from oxrl_core.rollout.hf_worker import TransformersWorker

    right = TransformersWorker._prefill
    kept: dict[Any, tuple[Any, list[tuple[Any, Any]]]] = {}  # prompts are of one length: nothing is padded

    def prefilled(self: Any, prompts: Sequence[Any]) -> Any:
        unread = [prompt for prompt in dict.fromkeys(prompts) if prompt not in kept]
        if unread:
            logits, cache, _, _ = right(self, unread)
            for row, prompt in enumerate(unread):
                states = [(layer.keys[row].clone(), layer.values[row].clone()) for layer in cache.layers]
                kept[prompt] = logits[row].clone(), states
        found = [kept[prompt] for prompt in prompts]
        cache = DynamicCache(config=self.model.config)
        for layer in range(len(found[0][1])):
            keys, values = (torch.stack([states[layer][part] for _, states in found]) for part in (0, 1))
            cache.update(keys, values, layer)
        mask = torch.ones(len(prompts), len(prompts[0][0]), dtype=torch.long)
        return torch.stack([logits for logits, _ in found]), cache, mask, torch.zeros(len(prompts), 1, dtype=torch.long)

    TransformersWorker._prefill = prefilled  # type: ignore[method-assign]


def logprobs_before_temperature(_run: Path) -> None:
    """The sampler says the log-probs of its logits as they come out of the model, and draws at a temperature."""
    import torch

    from oxrl_core.rollout.hf_worker import TransformersWorker

    right = TransformersWorker._decode

    def raw(self: Any, prompts: Any, seeds: Any, temperature: float, max_tokens: int, greedy: bool) -> Any:
        completions = right(self, prompts, seeds, temperature, max_tokens, greedy)
        said = []
        for (ids, _), completion in zip(prompts, completions, strict=True):
            row = torch.tensor([[*ids, *completion.token_ids]])
            scores = self.model(input_ids=row).logits[0, len(ids) - 1 : -1].float().log_softmax(-1)
            chosen = scores.gather(-1, row[0, len(ids) :, None])[:, 0].tolist()
            said.append(replace(completion, logprobs=chosen))
        return said

    TransformersWorker._decode = raw  # type: ignore[method-assign]


FAULTS = [
    Fault(  # pain 5: the reward does not move
        "sampler_is_greedy",
        "the sampler always takes the likeliest token",
        {"zero_variance", "temperature_low"},
        "sgrpo",
        [],
        plant=always_greedy,
    ),
    Fault(  # prime-rl#886, unsloth#1958
        "repetitions_cost",
        "the sampler punishes repetitions as the model's generation config asks, and the trainer does not know",
        {"logprob_gap"},
        "sgrpo",
        [],
        plant=repetitions_cost,
    ),
    Fault(  # pain 1, verl#2953
        "layers_exchanged",
        "two layers are exchanged on the way to the sampler",
        {"weight_sync", "logprob_gap"},
        "reinforce_pp_baseline",
        [],
        plant=layers_exchanged,
    ),
    Fault(  # NeMo#4018, vllm#9744, prime-rl#1650
        "prefixes_are_kept",
        "the sampler's cache of prompts outlives the weights that it was computed with",
        {"stale_sampler", "weight_sync", "logprob_gap"},
        "gspo",
        ["train.prompts_per_step=32"],
        plant=prefixes_are_kept,
    ),
    Fault(  # trl#7017: --logprobs-mode processed_logprobs
        "logprobs_before_temperature",
        "the sampler draws at temperature 0.6 and says log-probs of temperature 1",
        {"logprob_gap"},
        "sgrpo",
        ["rollout.temperature=0.6"],
        plant=logprobs_before_temperature,
    ),
]
