"""The sizes of an architecture that decide its memory, out of its config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from oxrl_core.config.mappings import integer_at, mapping_at

# What a family's class takes where its config.json is silent: model_type of the text -> (heads, kv heads, head size).
SILENT_HEADS = {"gemma3_text": (8, 4, 256), "gemma3": (8, 4, 256)}


@dataclass(frozen=True)
class Shape:
    """A decoder, as far as memory is concerned."""

    parameters: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int  # of the experts that one token passes, where there are experts
    vocabulary: int
    cached_layers: int  # layers whose keys and values grow with the text
    window_layers: int = 0  # layers that keep the last `window` tokens only
    window: int = 0
    is_multimodal: bool = False
    adapted: int | None = None  # intermediate width that adapters sit on, where it is less: packed experts have none

    @property
    def attention_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim


def shape_of(config: Mapping[str, Any], parameters: int | None) -> Shape | None:
    """The shape that a config.json describes; None where it says too little. Unknown parameters are counted from it."""
    whole = dict(config)
    text = mapping_at(whole, "text_config") or whole
    hidden, layers = integer_at(text, "hidden_size"), integer_at(text, "num_hidden_layers")
    vocabulary = integer_at(text, "vocab_size") or integer_at(whole, "vocab_size") or 0
    silent = SILENT_HEADS.get(str(text.get("model_type") or whole.get("model_type") or ""), (0, 0, 0))
    heads = integer_at(text, "num_attention_heads") or silent[0]
    if not hidden or not layers or not heads or hidden < 0 or layers < 0 or heads < 0:
        return None
    kv_heads = integer_at(text, "num_key_value_heads") or silent[1] or heads
    head_dim = integer_at(text, "head_dim") or silent[2] or hidden // heads
    experts = integer_at(text, "num_experts_per_tok") or 0
    intermediate = integer_at(text, "intermediate_size") or 0
    adapted: int | None = None
    if experts:
        adapted = integer_at(text, "shared_expert_intermediate_size") or 0
        intermediate = experts * (integer_at(text, "moe_intermediate_size") or 0) + adapted
    kinds = text.get("layer_types")
    names = [str(kind) for kind in cast("list[Any]", kinds)] if isinstance(kinds, list) else ["full_attention"] * layers
    window = integer_at(text, "sliding_window") or 0
    slides = sum("sliding" in name for name in names) if window else 0
    full = sum("full" in name for name in names) + (0 if window else sum("sliding" in name for name in names))
    width, kv = heads * head_dim, kv_heads * head_dim
    counted = layers * (2 * hidden * width + 2 * hidden * kv + 3 * hidden * intermediate) + vocabulary * hidden
    return Shape(
        parameters=parameters if parameters is not None else counted,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=intermediate or 4 * hidden,
        vocabulary=vocabulary,
        cached_layers=full,
        window_layers=slides,
        window=window,
        is_multimodal=any(key in whole for key in ("vision_config", "audio_config")),
        adapted=adapted,
    )


def adapter_parameters(shape: Shape, rank: int) -> int:
    """Parameters of adapters of this rank on every linear layer of the decoder."""
    h, a, k = shape.hidden, shape.attention_width, shape.kv_width
    i = shape.intermediate if shape.adapted is None else shape.adapted
    gated = 3 * (h + i) if i else 0
    return shape.layers * rank * ((h + a) + 2 * (h + k) + (a + h) + gated)
