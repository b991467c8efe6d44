"""Small models of the architectures whose heads differ, and rows for them."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

SMALL: dict[str, Any] = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "qwen3": {"head_dim": 16},
    "qwen2": {"tie_word_embeddings": True},
    "llama": {},
    "gemma2": {"head_dim": 16, "query_pre_attn_scalar": 16, "final_logit_softcapping": 3.0},
    "granite": {"logits_scaling": 0.2},
    "cohere": {"logit_scale": 3.0},
}


def build(model_type: str = "qwen3", attention: str = "sdpa", **changes: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **{**SMALL, **ARCHITECTURES[model_type], **changes})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attention)
    with torch.no_grad():  # wide logits, so that a cap or a scale that is forgotten shows
        model.get_output_embeddings().weight.mul_(20)
    return model


def rows(lengths: list[int], width: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 320, (len(lengths), width), generator=generator)
    present = torch.arange(width)[None] < torch.tensor(lengths)[:, None]
    return {
        "input_ids": ids * present,
        "attention_mask": present,
        "position_ids": torch.arange(width).expand(len(lengths), width) * present,
        "segment_ids": present.long(),
    }


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, torch.Tensor):
                self.elements = max(self.elements, value.numel())
        return result
