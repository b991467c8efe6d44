"""Log-probs and entropy of tokens under a causal language model, without ever holding a (B, T, V) tensor.

The decoder gives hidden states; the output head is applied to chunks of the tokens that are asked for, each recomputed
in backward, so peak memory does not grow with T x V. Everything is token-aligned: column t speaks about token t.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from oxrl_core.errors import ModelError
from oxrl_core.models.decoder import DecoderModel, run_recomputed, spread
from oxrl_core.models.heads import ScalarHead, state_values
from oxrl_core.models.multimodal import forbid, placeholder_ids
from oxrl_core.types import TokenBatch

# Logits of one chunk: 64M float32 values are 256 MiB, and three such tensors live at once.
CHUNK_ELEMENTS = 2**26
Signals = tuple[Tensor, Tensor | None]
# (logits (N, V) float32, targets (N,), ...) -> tensors (N,). It runs again in backward, so it must be a pure function.
Reader = Callable[..., tuple[Tensor | None, ...]]


@dataclass(frozen=True)
class Distillation:
    """What is read of a student's logits beside the states of a teacher."""

    read: Reader  # (logits, targets, teacher states) -> (values,)
    states: Tensor  # (B, T, ...): PolicyModel.states of the teacher


class PolicyModel(DecoderModel):
    """A causal language model whose forward pass gives log-probs (and entropy) instead of logits.

    With a value head it is its own critic: one forward pass gives both.
    """

    def __init__(
        self, model: nn.Module, *, value_head: ScalarHead | None = None, chunk_elements: int = CHUNK_ELEMENTS
    ) -> None:
        super().__init__(model)
        head = self.base.get_output_embeddings()
        if head is None:
            raise ModelError(f"{type(self.base).__name__} has no output head", "model.path", "take a causal model")
        config = self.base.config.get_text_config()
        self.forbidden = placeholder_ids(self.base.config)
        transform = logit_transform(config)
        if self.forbidden:
            transform = forbidding(transform, self.forbidden)
        self.head = ChunkedHead(head, transform, max(1, chunk_elements // int(config.vocab_size)))
        self.value_head = value_head
        self.uses_own_head = True  # check_head turns it off where the model does something else to its logits

    def forward(
        self,
        input_ids: Tensor,  # (B, T)
        attention_mask: Tensor,  # (B, T) bool
        position_ids: Tensor,  # (B, T)
        segment_ids: Tensor,  # (B, T), 0 on padding
        *,
        temperature: float = 1.0,
        with_entropy: bool = False,
        wanted: Tensor | None = None,  # (B, T) bool; none: every token that has a predecessor
        with_values: bool = False,
        distillation: Distillation | None = None,
        media_inputs: dict[str, Tensor] | None = None,  # features of the rows' media
    ) -> tuple[Any, ...]:
        """Log-probs (B, T) float32 at `temperature`, and exact entropies (B, T) of the distribution at each token.

        0 on padding, at the first token of a segment, and outside `wanted`. With a `distillation` its values (B, T)
        stand in place of both. `with_values` adds, last, the values of the states (heads.state_values).
        """
        inputs = self.decoder_inputs(input_ids, attention_mask, position_ids, segment_ids, media_inputs)
        # Flat indices of the asked tokens, and of the tokens before them, whose hidden states predict them.
        asked = torch.zeros_like(attention_mask, dtype=torch.bool)
        asked[:, 1:] = (segment_ids[:, 1:] == segment_ids[:, :-1]) & (segment_ids[:, 1:] > 0)
        if wanted is not None:
            asked &= wanted
        index = asked.flatten().nonzero().squeeze(1)
        along = [input_ids.flatten()[index]]
        if distillation is None:
            read: Reader = partial(signals_of_logits, temperature=temperature, with_entropy=with_entropy)
        else:
            read = distillation.read
            along.append(distillation.states.flatten(0, 1).index_select(0, index - 1))
        hidden = self.hidden(inputs) if self.uses_own_head or with_values else None
        if self.uses_own_head:
            parts = self.head(hidden.flatten(0, 1).index_select(0, index - 1), *along, read=read)
        else:
            parts = run_recomputed(self._whole_forward, inputs, index, *along, read=read)
        signals = tuple(spread(part, index, input_ids) for part in parts)
        if self.value_head is None:
            return signals
        if with_values:
            return *signals, state_values(self.value_head, hidden, segment_ids)
        # A sum over no state: ZeRO would keep the last step's gradient of a parameter that backward does not reach.
        nothing = self.value_head(torch.zeros(0, self.value_head.in_features, device=input_ids.device)).sum()
        return signals[0] + nothing, *signals[1:]

    def _whole_forward(
        self, inputs: dict[str, Any], index: Tensor, *along: Tensor, read: Reader
    ) -> tuple[Tensor | None, ...]:
        logits = forbid(self.base(**inputs).logits, self.forbidden)
        return read(logits.flatten(0, 1).index_select(0, index - 1).float(), *along)

    def states(self, inputs: dict[str, Any]) -> Tensor:
        """What `logits` needs to know of each token, (B, T, H); (B, T, V) where the model's own forward must serve."""
        return self.hidden(inputs) if self.uses_own_head else self.base(**inputs).logits

    def logits(self, states: Tensor) -> Tensor:
        """Float32 logits (N, V) of states (N, ...)."""
        return self.head.logits(states) if self.uses_own_head else forbid(states.float(), self.forbidden)

    @torch.no_grad()
    def check_head(self) -> float:
        """The largest difference to the model's own logits on a tiny row; a large one switches to the model's forward.

        To be called once after loading. A head may do what nobody announced (scale, cap, add); this sees it.
        """
        device = next(self.base.parameters()).device
        length = 8
        ids = torch.arange(1, length + 1, device=device)[None] % int(self.base.config.get_text_config().vocab_size)
        ones = torch.ones_like(ids)
        places = torch.arange(length, device=device)[None]
        was_training = self.training
        self.eval()
        mine, _ = self(ids, ones.bool(), places, ones, temperature=1.0)
        logits = self.base(input_ids=ids, attention_mask=ones, position_ids=places, use_cache=False).logits
        logits = forbid(logits, self.forbidden)
        theirs, _ = signals_of_logits(logits[0, :-1], ids[0, 1:], 1.0, False)
        self.train(was_training)
        difference = float((mine[0, 1:] - theirs).abs().max())
        limit = 1e-4 if logits.dtype == torch.float32 else 0.1  # bfloat16 rounds a logit of 10 by 0.03
        self.uses_own_head = difference <= limit
        return difference


class ChunkedHead(nn.Module):
    """The output head over chunks of tokens.

    Its chunks call head.forward, not head(): under ZeRO-3 this whole module is one gathering unit, so ranks with
    different numbers of tokens still issue the same collectives.
    """

    def __init__(self, head: nn.Module, transform: Callable[[Tensor], Tensor], chunk_tokens: int) -> None:
        super().__init__()
        self.head = head
        self.transform = transform
        self.chunk_tokens = chunk_tokens

    def forward(self, hidden: Tensor, *along: Tensor, read: Reader) -> tuple[Tensor | None, ...]:
        """What `read` makes of the logits of the hidden states (N, H), with the tensors that go along, (N, ...)."""
        if hidden.shape[0] <= self.chunk_tokens:
            return self._chunk(hidden, *along, read=read)
        pieces = zip(*(tensor.split(self.chunk_tokens) for tensor in (hidden, *along)), strict=True)
        parts = [run_recomputed(self._chunk, *piece, read=read) for piece in pieces]
        return tuple(None if column[0] is None else torch.cat(column) for column in zip(*parts, strict=True))

    def _chunk(self, hidden: Tensor, *along: Tensor, read: Reader) -> tuple[Tensor | None, ...]:
        return read(self.logits(hidden), *along)

    def logits(self, hidden: Tensor) -> Tensor:
        """Float32 logits (N, V)."""
        return self.transform(self.head.forward(hidden).float())


def signals_of_logits(logits: Tensor, targets: Tensor, temperature: float, with_entropy: bool) -> Signals:
    """Float32 log-probs of the targets and exact entropies, from logits (N, V) divided by the temperature."""
    logprobs = torch.log_softmax(logits.float() / temperature, dim=-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1) if with_entropy else None
    return logprobs.gather(-1, targets[:, None]).squeeze(-1), entropy


def forbidding(transform: Callable[[Tensor], Tensor], token_ids: list[int]) -> Callable[[Tensor], Tensor]:
    """The transform, after which tokens that stand for features have probability 0."""
    return lambda logits: forbid(transform(logits), token_ids)


def logit_transform(config: Any) -> Callable[[Tensor], Tensor]:
    """What a model does to its logits after the head, as its configuration announces it."""
    cap = getattr(config, "final_logit_softcapping", None)  # gemma2
    divisor = getattr(config, "logits_scaling", None)  # granite
    factor = getattr(config, "logit_scale", None)  # cohere
    if cap:
        return lambda logits: torch.tanh(logits / cap) * cap
    if divisor:
        return lambda logits: logits / divisor
    if factor:
        return lambda logits: logits * factor
    return lambda logits: logits


def unpack(batch: TokenBatch) -> tuple[TokenBatch, Tensor]:
    """Each segment of packed rows as a row of its own, and for each of its tokens the flat index in the batch."""
    pieces = [
        (row, (batch.segment_ids[row] == segment).nonzero().squeeze(1))
        for row in range(batch.input_ids.shape[0])
        for segment in range(1, int(batch.segment_ids[row].max()) + 1)
    ]
    longest = max(len(columns) for _, columns in pieces)
    width = batch.input_ids.shape[1]
    source = torch.full((len(pieces), longest), -1, dtype=torch.long, device=batch.input_ids.device)
    for index, (row, columns) in enumerate(pieces):
        source[index, : len(columns)] = row * width + columns
    present = source >= 0

    def pick(values: Tensor) -> Tensor:
        return torch.where(present, values.flatten()[source.clamp(min=0)], torch.zeros_like(values.flatten()[0]))

    rows = TokenBatch(
        input_ids=pick(batch.input_ids),
        attention_mask=present,
        position_ids=pick(batch.position_ids),
        completion_mask=pick(batch.completion_mask),
        segment_ids=present.long(),
    )
    return rows, source
