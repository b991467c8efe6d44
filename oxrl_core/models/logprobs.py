"""Log-probs and entropy of tokens under a causal language model, without ever holding a (B, T, V) tensor.

The decoder gives hidden states; the output head is applied to chunks of the tokens that are asked for, each recomputed
in backward, so peak memory does not grow with T x V. Everything is token-aligned: column t speaks about token t.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import peft
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from oxrl_core.errors import ModelError
from oxrl_core.types import TokenBatch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Logits of one chunk: 64M float32 values are 256 MiB, and three such tensors live at once.
CHUNK_ELEMENTS = 2**26
MASKED_ATTENTIONS = ("sdpa", "eager")  # the implementations that take a mask per pair of tokens
Signals = tuple[Tensor, Tensor | None]


class PolicyModel(nn.Module):
    """A causal language model whose forward pass gives log-probs (and entropy) instead of logits."""

    def __init__(self, model: nn.Module, *, chunk_elements: int = CHUNK_ELEMENTS) -> None:
        super().__init__()
        self.model = model
        head = self.causal.get_output_embeddings()
        if head is None:
            raise ModelError(f"{type(self.causal).__name__} has no output head", "model.path", "take a causal model")
        config = self.causal.config.get_text_config()
        self.head = ChunkedHead(head, logit_transform(config), max(1, chunk_elements // int(config.vocab_size)))
        self.uses_own_head = True  # check_head turns it off where the model does something else to its logits

    @property
    def causal(self) -> PreTrainedModel:
        """The transformers model itself; adapters live inside its layers."""
        return self.model.get_base_model() if isinstance(self.model, peft.PeftModel) else self.model

    def forward(
        self,
        input_ids: Tensor,  # (B, T)
        attention_mask: Tensor,  # (B, T) bool
        position_ids: Tensor,  # (B, T)
        segment_ids: Tensor,  # (B, T), 0 on padding
        *,
        temperature: float,
        with_entropy: bool = False,
        wanted: Tensor | None = None,  # (B, T) bool; none: every token that has a predecessor
    ) -> Signals:
        """Log-probs (B, T) float32 at `temperature`, and exact entropies (B, T) of the distribution at each token.

        0 on padding, at the first token of a segment, and outside `wanted`.
        """
        inputs = {
            "input_ids": input_ids,
            "attention_mask": self._mask(attention_mask, segment_ids),
            "position_ids": position_ids,
            "use_cache": False,
        }
        # Flat indices of the asked tokens, and of the tokens before them, whose hidden states predict them.
        asked = torch.zeros_like(attention_mask, dtype=torch.bool)
        asked[:, 1:] = (segment_ids[:, 1:] == segment_ids[:, :-1]) & (segment_ids[:, 1:] > 0)
        if wanted is not None:
            asked &= wanted
        index = asked.flatten().nonzero().squeeze(1)
        targets = input_ids.flatten()[index]
        if self.uses_own_head:
            hidden = self.causal.get_decoder()(**inputs).last_hidden_state
            values, entropy = self.head(
                hidden.flatten(0, 1).index_select(0, index - 1), targets, temperature, with_entropy
            )
        else:
            values, entropy = _run_recomputed(self._whole_forward, inputs, index, targets, temperature, with_entropy)
        return _spread(values, index, input_ids), _spread(entropy, index, input_ids)

    def _whole_forward(
        self, inputs: dict[str, Any], index: Tensor, targets: Tensor, temperature: float, with_entropy: bool
    ) -> Signals:
        logits = self.causal(**inputs).logits
        return signals_of_logits(logits.flatten(0, 1).index_select(0, index - 1), targets, temperature, with_entropy)

    def _mask(self, attention_mask: Tensor, segment_ids: Tensor) -> Tensor:
        """The padding mask, or for packed rows a block-diagonal causal mask (B, 1, T, T)."""
        if int(segment_ids.max()) <= 1:
            return attention_mask
        attention = self.causal.config._attn_implementation
        if attention not in MASKED_ATTENTIONS:
            raise ModelError(f"attention '{attention}' cannot mask packed rows", "model.attention", "use sdpa")
        length = segment_ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=segment_ids.device).tril()
        # Padding is segment 0 and sees itself: a row without any visible token would turn into NaN.
        mask = (causal & (segment_ids[:, :, None] == segment_ids[:, None, :]))[:, None]
        if attention == "sdpa":
            return mask
        dtype = next(self.causal.parameters()).dtype
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)

    def can_pack(self) -> bool:
        """Whether this attention implementation can be told about the borders of packed examples."""
        return self.causal.config._attn_implementation in MASKED_ATTENTIONS

    @torch.no_grad()
    def check_head(self) -> float:
        """The largest difference to the model's own logits on a tiny row; a large one switches to the model's forward.

        To be called once after loading. A head may do what nobody announced (scale, cap, add); this sees it.
        """
        device = next(self.causal.parameters()).device
        length = 8
        ids = torch.arange(1, length + 1, device=device)[None] % int(self.causal.config.get_text_config().vocab_size)
        ones = torch.ones_like(ids)
        places = torch.arange(length, device=device)[None]
        was_training = self.training
        self.eval()
        mine, _ = self(ids, ones.bool(), places, ones, temperature=1.0)
        logits = self.causal(input_ids=ids, attention_mask=ones, position_ids=places, use_cache=False).logits
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

    def forward(self, hidden: Tensor, targets: Tensor, temperature: float, with_entropy: bool) -> Signals:
        """Log-probs (N,) of the targets given the hidden states (N, H) before them, and entropies (N,)."""
        if hidden.shape[0] <= self.chunk_tokens:
            return self._chunk(hidden, targets, temperature, with_entropy)
        parts = [
            _run_recomputed(self._chunk, some_hidden, some_targets, temperature, with_entropy)
            for some_hidden, some_targets in zip(
                hidden.split(self.chunk_tokens), targets.split(self.chunk_tokens), strict=True
            )
        ]
        entropy = torch.cat([part[1] for part in parts if part[1] is not None]) if with_entropy else None
        return torch.cat([part[0] for part in parts]), entropy

    def _chunk(self, hidden: Tensor, targets: Tensor, temperature: float, with_entropy: bool) -> Signals:
        logits = self.transform(self.head.forward(hidden).float())  # (n, V)
        return signals_of_logits(logits, targets, temperature, with_entropy)


def signals_of_logits(logits: Tensor, targets: Tensor, temperature: float, with_entropy: bool) -> Signals:
    """Float32 log-probs of the targets and exact entropies, from logits (N, V) divided by the temperature."""
    logprobs = torch.log_softmax(logits.float() / temperature, dim=-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1) if with_entropy else None
    return logprobs.gather(-1, targets[:, None]).squeeze(-1), entropy


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


def _run_recomputed(function: Callable[..., Signals], *arguments: Any) -> Signals:
    """The function's value; its intermediate tensors are recomputed in backward instead of kept."""
    if not torch.is_grad_enabled():
        return function(*arguments)
    return checkpoint(function, *arguments, use_reentrant=False)  # type: ignore[no-any-return]  # checkpoint is untyped


def _spread(values: Tensor | None, index: Tensor, like: Tensor) -> Any:
    """Values (N,) at their flat places of a (B, T) tensor that is 0 elsewhere; None stays None."""
    if values is None:
        return None
    flat = torch.zeros(like.numel(), dtype=torch.float32, device=like.device)
    return flat.index_put((index,), values).view(like.shape)
