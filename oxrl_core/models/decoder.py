"""What every trained model shares: rows of tokens go in, hidden states come out, and no token sees a stranger."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import peft
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from oxrl_core.errors import ModelError
from oxrl_core.models.multimodal import backbone, is_multimodal, reach_towers, with_media

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MASKED_ATTENTIONS = ("sdpa", "eager")  # the implementations that take a mask per pair of tokens
Value = TypeVar("Value")


class DecoderModel(nn.Module):
    """A transformers model whose hidden states are read; what is made of them is the subclass's business."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @property
    def base(self) -> PreTrainedModel:
        """The transformers model itself; adapters live inside its layers."""
        return self.model.get_base_model() if isinstance(self.model, peft.PeftModel) else self.model

    def decoder_inputs(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        segment_ids: Tensor,
        media_inputs: dict[str, Tensor] | None = None,
    ) -> dict[str, Any]:
        """What the decoder takes for these rows, each (B, T), and for the features of their media."""
        inputs = {
            "input_ids": input_ids,
            "attention_mask": self._mask(attention_mask, segment_ids),
            "position_ids": position_ids,
            "use_cache": False,
        }
        return with_media(self.base, inputs, media_inputs)

    def hidden(self, inputs: dict[str, Any]) -> Tensor:
        """The last hidden states (B, T, H), after the final norm."""
        if not is_multimodal(self.base.config):
            return self.base.get_decoder()(**inputs).last_hidden_state
        hidden = backbone(self.base)(**inputs).last_hidden_state
        reached = reach_towers(self.base, inputs)
        return hidden if reached is None else hidden + reached.to(hidden.dtype)

    def _mask(self, attention_mask: Tensor, segment_ids: Tensor) -> Tensor:
        """The padding mask, or for packed rows a block-diagonal causal mask (B, 1, T, T)."""
        if int(segment_ids.max()) <= 1:
            return attention_mask
        attention = self.base.config._attn_implementation
        if attention not in MASKED_ATTENTIONS:
            raise ModelError(f"attention '{attention}' cannot mask packed rows", "model.attention", "use sdpa")
        length = segment_ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=segment_ids.device).tril()
        # Padding is segment 0 and sees itself: a row without any visible token would turn into NaN.
        mask = (causal & (segment_ids[:, :, None] == segment_ids[:, None, :]))[:, None]
        if attention == "sdpa":
            return mask
        dtype = next(self.base.parameters()).dtype
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)

    def can_pack(self) -> bool:
        """Whether this attention implementation can be told about the borders of packed examples.

        A model that sees or hears counts positions in three dimensions or looks back within a picture: one row each.
        """
        return not is_multimodal(self.base.config) and self.base.config._attn_implementation in MASKED_ATTENTIONS


def run_recomputed(function: Callable[..., Value], *arguments: Any, **options: Any) -> Value:
    """The function's value; its intermediate tensors are recomputed in backward instead of kept."""
    if not torch.is_grad_enabled():
        return function(*arguments, **options)
    return checkpoint(function, *arguments, use_reentrant=False, **options)  # type: ignore[no-any-return]  # untyped


def spread(values: Tensor | None, index: Tensor, like: Tensor) -> Any:
    """Values (N,) at their flat places of a (B, T) tensor that is 0 elsewhere; None stays None."""
    if values is None:
        return None
    flat = torch.zeros(like.numel(), dtype=torch.float32, device=like.device)
    return flat.index_put((index,), values).view(like.shape)
