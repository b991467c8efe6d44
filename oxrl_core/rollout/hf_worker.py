"""A sampler worker on plain transformers: where vLLM is missing, and the faster one for models of a few megabytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from oxrl_core.data.media import open_media
from oxrl_core.errors import WeightSyncError
from oxrl_core.models.load import causal_class, load_tokenizer
from oxrl_core.models.multimodal import (
    forbid,
    is_multimodal,
    names_in_files,
    placeholder_ids,
    with_media,
    with_packed_experts,
)
from oxrl_core.rollout.worker import Completion, check_fits, check_names, compute_device, eos_token_ids, window
from oxrl_core.types import FinishReason, Media

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import DynamicCache

    from oxrl_core.config.schema import Config

PromptKey = tuple[tuple[int, ...], tuple[Media, ...]]  # token ids, and what the placeholders among them stand for
MAX_ROWS = 256  # samples that decode together; more would not be faster on a CPU, and the cache grows with them


class TransformersWorker:
    """A policy with a decode loop of its own: a prompt is read once for its group, finished rows leave the batch."""

    def __init__(self, config: Config, model_folder: str | Path, eos_ids: Sequence[int] | None = None) -> None:
        self.device, dtype = compute_device(config)
        self.model = causal_class(Path(model_folder)).from_pretrained(
            model_folder, dtype=dtype, attn_implementation=config.model.attention
        )
        self.model.to(self.device).eval().requires_grad_(False)
        self.top_p, self.top_k = config.rollout.top_p, config.rollout.top_k
        self.window = window(config, model_folder)
        self.stop_ids: set[int] = set()
        if config.rollout.stop_at_eos:
            self.stop_ids = set(eos_token_ids(model_folder) if eos_ids is None else eos_ids)
        self.media = None
        if is_multimodal(self.model.config):
            self.media = open_media(Path(model_folder), load_tokenizer(Path(model_folder)))
        self.forbidden = placeholder_ids(self.model.config)
        self._version = 0

    def ready(self) -> dict[str, Any]:
        """What this worker is."""
        return {"engine": "transformers", "device": self.device, "precision": str(self.model.dtype).split(".")[-1]}

    def version(self) -> int:
        """The number of optimizer steps behind the weights in use."""
        return self._version

    @torch.inference_mode()
    def generate(
        self,
        token_id_lists: Sequence[Sequence[int]],
        seeds: Sequence[int],
        temperature: float,
        max_tokens: int,
        greedy: bool,
        media_lists: Sequence[tuple[Media, ...]] | None = None,
    ) -> list[Completion]:
        """One completion per row, each from its own seed."""
        check_fits(token_id_lists, max_tokens, self.window)
        media = [()] * len(seeds) if media_lists is None else media_lists
        prompts = [(tuple(ids), of_row) for ids, of_row in zip(token_id_lists, media, strict=True)]
        completions: list[Completion] = []
        for start in range(0, len(seeds), MAX_ROWS):
            rows = slice(start, start + MAX_ROWS)
            completions += self._decode(prompts[rows], seeds[rows], temperature, max_tokens, greedy)
        return completions

    def _decode(
        self,
        prompts: Sequence[PromptKey],
        seeds: Sequence[int],
        temperature: float,
        max_tokens: int,
        greedy: bool,
    ) -> list[Completion]:
        temperature = 1.0 if greedy else temperature
        uniforms = torch.stack([_uniforms(seed, max_tokens) for seed in seeds]).to(self.device)  # (B, max_tokens)
        logits, cache, mask, shift = self._prefill(prompts)
        alive = torch.arange(len(seeds), device=self.device)  # row of the batch -> sample
        drawn: list[list[int]] = [[] for _ in seeds]
        logprobs: list[list[float]] = [[] for _ in seeds]
        reasons: list[FinishReason] = ["length"] * len(seeds)
        for column in range(max_tokens):
            scores = (forbid(logits.float(), self.forbidden) / temperature).log_softmax(-1)  # (B, V)
            if not greedy:
                scores = truncated(scores, self.top_p, self.top_k)
            tokens = scores.argmax(-1) if greedy else _inverse_cdf(scores, uniforms[alive, column])
            chosen = scores.gather(-1, tokens[:, None])[:, 0].tolist()
            kept: list[int] = []
            for row, (sample, token, value) in enumerate(zip(alive.tolist(), tokens.tolist(), chosen, strict=True)):
                drawn[sample].append(token)
                logprobs[sample].append(value)
                if token in self.stop_ids:
                    reasons[sample] = "stop"
                else:
                    kept.append(row)
            if not kept or column == max_tokens - 1:
                break
            if len(kept) < len(alive):
                rows = torch.tensor(kept, device=self.device)
                alive, tokens, mask, shift = alive[rows], tokens[rows], mask[rows], shift[rows]
                select_rows(cache, rows)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            positions = mask.sum(1, keepdim=True) - 1 + shift
            logits = self.model(
                input_ids=tokens[:, None], attention_mask=mask, position_ids=positions, past_key_values=cache
            ).logits[:, -1]
        return [
            Completion(*parts, policy_version=self._version) for parts in zip(drawn, logprobs, reasons, strict=True)
        ]

    def _prefill(self, prompts: Sequence[PromptKey]) -> tuple[Tensor, DynamicCache, Tensor, Tensor]:
        """Next-token logits (B, V), cache, mask and shift of every sample; each distinct prompt is read once.

        The shift (B, 1) is what a position in the completion has beside the number of tokens before it: a picture
        takes fewer positions than tokens.
        """
        from transformers import DynamicCache

        distinct = list(dict.fromkeys(prompts))
        width = max(len(ids) for ids, _ in distinct)
        # Padding at the left, so that the last column is the last token of every prompt.
        ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt, _ in distinct], device=self.device)
        mask = torch.tensor(
            [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt, _ in distinct], device=self.device
        )
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        if self.media is not None:
            for prompt, of_prompt in distinct:
                self.media.check(prompt, of_prompt, "a prompt of the sampler")
            inputs = with_media(self.model, inputs, self.media.stack([one for _, of in distinct for one in of]))
        cache = DynamicCache(config=self.model.config)
        logits = self.model(**inputs, past_key_values=cache, logits_to_keep=1).logits[:, -1]
        last = inputs["position_ids"][..., -1]  # (B,), or (3, B) of time, height and width
        shift = ((last if last.ndim == 1 else last.amax(0)) + 1 - mask.sum(1))[:, None]
        row_of = {prompt: row for row, prompt in enumerate(distinct)}
        rows = torch.tensor([row_of[prompt] for prompt in prompts], device=self.device)
        select_rows(cache, rows)
        return logits[rows], cache, mask[rows], shift[rows]

    @torch.no_grad()
    def load_weights(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Copies the weights into the live model; a missing, unknown or misshapen one is an error."""
        own = self.model.state_dict()  # views of the live weights; tied names share their storage
        if self.media is not None:
            weights = self._under_own_names(weights, own)
        weights = with_packed_experts(weights, own)
        places: dict[int, str] = {}
        tied = {name: places.setdefault(tensor.data_ptr(), name) for name, tensor in own.items()}
        given = {tied.get(name, name) for name in weights}
        check_names(given, set(tied.values()))
        written: dict[str, Tensor] = {}
        for name, tensor in weights.items():
            if own[name].shape != tensor.shape:
                raise WeightSyncError(
                    f"the trainer's {name} has shape {tuple(tensor.shape)}, the sampler's {tuple(own[name].shape)}",
                    where="load_weights",
                    next_step="the sampler must be started from the model folder that is trained",
                )
            twin = written.setdefault(tied[name], tensor)
            if twin is not tensor and not torch.equal(twin, tensor):
                raise WeightSyncError(
                    f"{name} is tied to {tied[name]} in the sampler's model, but the trainer's two tensors differ",
                    where="load_weights",
                    next_step="the learner must keep tied weights tied (tie_word_embeddings in config.json)",
                )
            own[name].copy_(tensor)
        self._version = version

    def _under_own_names(self, weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights under the names of the live model, where its files call them otherwise."""
        own_name = {id(tensor): name for name, tensor in own.items()}
        in_files = names_in_files(self.model, dict(own))
        names = {name: own_name.get(id(tensor), name) for name, tensor in in_files.items()}
        return {names.get(name, name): tensor for name, tensor in weights.items()}

    @torch.inference_mode()
    def probe(self, token_ids: Sequence[int]) -> list[float]:
        """The log-prob of each token of the row at temperature 1; 0 for the first."""
        row = torch.tensor([list(token_ids)], device=self.device)
        scores = forbid(self.model(input_ids=row).logits[0, :-1].float(), self.forbidden).log_softmax(-1)
        return [0.0, *scores.gather(-1, row[0, 1:, None])[:, 0].tolist()]

    def sleep(self) -> None:
        """Moves the weights to host memory."""
        if self.device == "cuda":
            self.model.to("cpu")
            torch.cuda.empty_cache()

    def wake(self) -> None:
        """Moves the weights back."""
        self.model.to(self.device)


def select_rows(cache: DynamicCache, rows: Tensor) -> None:
    """Keeps these rows of the cache, in this order; the states of linear attention as well."""
    for layer in cache.layers:
        if hasattr(layer, "batch_select_indices"):
            layer.batch_select_indices(rows)
        for states in (getattr(layer, "conv_states", None), getattr(layer, "recurrent_states", None)):
            for index, state in (states or {}).items():
                if state is not None:
                    states[index] = state.index_select(0, rows)


def truncated(scores: Tensor, top_p: float, top_k: int) -> Tensor:
    """Log-probs (B, V) of the distribution that is drawn from: -inf outside the k likeliest tokens and, of these, the
    smallest set with probability p, and renormalised inside. Ties at the k-th place all stay, as in vLLM.
    """
    if 0 < top_k < scores.shape[-1]:
        least = scores.topk(top_k, dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < least, -torch.inf).log_softmax(-1)
    if top_p < 1:
        ordered, order = scores.double().sort(dim=-1, descending=True, stable=True)
        mass = ordered.exp()
        is_cut = mass.cumsum(-1) - mass >= top_p  # the likelier tokens alone have that much; the first never is
        scores = scores.masked_fill(is_cut.scatter(-1, order, is_cut), -torch.inf).log_softmax(-1)
    return scores


def _uniforms(seed: int, count: int) -> Tensor:
    """The random numbers of one sample, all at once: they depend on its seed and on nothing else."""
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _inverse_cdf(scores: Tensor, uniforms: Tensor) -> Tensor:
    """One token (B,) per row of log-probs (B, V), where its uniform number falls in the cumulated probabilities."""
    cumulated = scores.double().exp().cumsum(-1)
    points = (uniforms * cumulated[:, -1])[:, None]
    # right=True takes the first token whose cumulated probability exceeds the point: one of probability 0 never does.
    return torch.searchsorted(cumulated, points, right=True)[:, 0].clamp(max=scores.shape[-1] - 1)
