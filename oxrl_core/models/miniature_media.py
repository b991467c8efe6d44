"""Miniatures that see or hear: how each family shrinks, its placeholder tokens, and the processor files beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from transformers import PreTrainedModel, PreTrainedTokenizerFast

VOCABULARY = 336  # the 320 tokens of every miniature, and room for placeholders
FIRST_PLACEHOLDER = 320
SMALL_HEAD = 32

_TEXT: dict[str, Any] = {
    "num_hidden_layers": 2,
    "hidden_size": 4 * SMALL_HEAD,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_HEADED = {**_TEXT, "head_dim": SMALL_HEAD}
_QWEN_TOKENS = {"vision_start_token_id": 320, "vision_end_token_id": 321, "image_token_id": 322, "video_token_id": 323}
# The sections of a rotary embedding in three dimensions sum to half of the dimensions that it turns.
_ROPE_OF_2 = {"rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]}}
_ROPE_OF_3 = {"rope_scaling": {"mrope_interleaved": True, "mrope_section": [6, 5, 5], "rope_type": "default"}}
_QWEN_3_5_ROPE = {
    "mrope_interleaved": True,
    "mrope_section": [2, 1, 1],
    "rope_type": "default",
    "rope_theta": 10_000_000,
    "partial_rotary_factor": 0.25,
}
_QWEN_3_VISION = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 2,
    "out_hidden_size": 4 * SMALL_HEAD,
    "num_position_embeddings": 16,  # a square
}
_LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "rope_parameters": _QWEN_3_5_ROPE,
}
_EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}
_SIGLIP = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
# model_type -> what replaces the values of its config.json; mappings are merged, except for those of REPLACED.
SMALL_MEDIA: dict[str, dict[str, Any]] = {
    "qwen2_vl": {
        **_TEXT,
        **_QWEN_TOKENS,
        **_ROPE_OF_2,
        "vision_config": {"depth": 2, "embed_dim": 32, "num_heads": 2, "mlp_ratio": 2, "hidden_size": 4 * SMALL_HEAD},
    },
    "qwen2_5_vl": {
        **_TEXT,
        **_QWEN_TOKENS,
        **_ROPE_OF_2,
        "vision_config": {
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 4 * SMALL_HEAD,
            "fullatt_block_indexes": [1],
        },
    },
    "qwen3_vl": {
        **_QWEN_TOKENS,
        "text_config": {**_HEADED, **_ROPE_OF_3},
        "vision_config": {**_QWEN_3_VISION, "deepstack_visual_indexes": [0]},
    },
    "qwen3_5": {**_QWEN_TOKENS, "text_config": {**_HEADED, **_LINEAR}, "vision_config": _QWEN_3_VISION},
    "qwen3_5_moe": {
        **_QWEN_TOKENS,
        "text_config": {**_HEADED, **_LINEAR, **_EXPERTS},
        "vision_config": _QWEN_3_VISION,
    },
    "gemma3": {
        "image_token_index": 322,
        "boi_token_index": 320,
        "eoi_token_index": 321,
        "eos_token_id": 2,
        "mm_tokens_per_image": 4,
        "text_config": {
            **_HEADED,
            "query_pre_attn_scalar": SMALL_HEAD,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        "vision_config": {**_SIGLIP, "image_size": 56},
    },
    "idefics3": {
        "image_token_id": 322,
        "image_seq_len": 4,
        "vocab_size": VOCABULARY,
        "pad_token_id": 0,
        "text_config": _HEADED,
        "vision_config": {**_SIGLIP, "image_size": 84},
    },
    "qwen2_audio": {
        "audio_token_index": 322,
        "vocab_size": VOCABULARY,
        "text_config": _TEXT,
        "audio_config": {
            "d_model": 32,
            "encoder_layers": 2,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 64,
            "max_source_positions": 1500,  # half of the frames of 30 s: vLLM takes no other window
        },
    },
}
REPLACED = ("rope_scaling", "rope_parameters")

_QWEN_PIECES = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
# model_type -> its tokens from FIRST_PLACEHOLDER on, and what its chat template writes for a picture or sound.
TOKENS: dict[str, tuple[list[str], str]] = {
    **dict.fromkeys(
        ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "qwen3_5_moe"),
        (_QWEN_PIECES, "<|vision_start|><|image_pad|><|vision_end|>"),
    ),
    "gemma3": (["<start_of_image>", "<end_of_image>", "<image_soft_token>"], "<start_of_image>"),
    "idefics3": (["<fake_token_around_image>", "<global-img>", "<image>", "<end_of_utterance>"], "<image>"),
    "qwen2_audio": (["<|audio_bos|>", "<|audio_eos|>", "<|AUDIO|>"], "<|audio_bos|><|AUDIO|><|audio_eos|>"),
}
CHATML_WITH_MEDIA = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}MARKER{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# What the families' own preprocessor_config.json say, with the sizes of the miniatures.
_CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "temporal_patch_size": 2,
    "merge_size": 2,
    "size": {"shortest_edge": 56 * 56, "longest_edge": 112 * 112},
    "image_processor_type": "Qwen2VLImageProcessor",
}
_HALVES = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
PROCESSORS: dict[str, dict[str, Any]] = {
    "qwen2_vl": {**_CLIP, "patch_size": 14},
    "qwen2_5_vl": {**_CLIP, "patch_size": 14},
    "qwen3_vl": {**_CLIP, **_HALVES, "patch_size": 16},
    "qwen3_5": {**_CLIP, **_HALVES, "patch_size": 16},
    "qwen3_5_moe": {**_CLIP, **_HALVES, "patch_size": 16},
    "gemma3": {**_HALVES, "size": {"height": 56, "width": 56}, "image_processor_type": "Gemma3ImageProcessor"},
    "idefics3": {
        **_HALVES,
        "size": {"longest_edge": 84},
        "max_image_size": {"longest_edge": 84},
        "do_image_splitting": False,
        "image_processor_type": "Idefics3ImageProcessor",
    },
    "qwen2_audio": {
        "feature_size": 128,
        "sampling_rate": 16_000,
        "hop_length": 160,
        "n_fft": 400,
        "chunk_length": 30,
        "padding_value": 0.0,
        "return_attention_mask": True,
        "feature_extractor_type": "WhisperFeatureExtractor",
    },
}

# What other files of the processor say: other programs read how many tokens a picture is from there.
BESIDE: dict[str, dict[str, Any]] = {
    "idefics3": {"processor_config.json": {"image_seq_len": 4, "processor_class": "Idefics3Processor"}},
}


def shrink_media(architecture: dict[str, Any]) -> dict[str, Any]:
    """A config.json of the same architecture with narrow towers, few layers and a vocabulary of 336."""
    return _merge(architecture, SMALL_MEDIA[architecture["model_type"]])


def _merge(whole: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    merged = dict(whole)
    for key, value in part.items():
        inner = merged.get(key)
        is_merged = isinstance(value, dict) and isinstance(inner, dict) and key not in REPLACED
        merged[key] = _merge(inner, value) if is_merged else value
    return merged


def add_placeholders(tokenizer: PreTrainedTokenizerFast, model_type: str) -> None:
    """Gives the tokenizer the family's tokens and a chat template that writes its pictures or sounds."""
    tokens, marker = TOKENS[model_type]
    tokenizer.add_special_tokens(
        {
            "extra_special_tokens": [
                "<|im_start|>",
                *(AddedToken(token, special=True, normalized=False) for token in tokens),
            ]
        }
    )
    found = tokenizer.convert_tokens_to_ids(tokens)
    assert found == list(range(FIRST_PLACEHOLDER, FIRST_PLACEHOLDER + len(tokens))), found
    tokenizer.chat_template = CHATML_WITH_MEDIA.replace("MARKER", marker)


def open_eyes(model: PreTrainedModel) -> None:
    """Draws what the family initialises with zeros: through a projector of zeros no picture changes anything."""
    projector = getattr(model.base_model, "multi_modal_projector", None)
    weight = getattr(projector, "mm_input_projection_weight", None)
    if weight is not None:
        with torch.no_grad():
            weight.normal_(0.0, 0.1)


def write_processor(folder: Path, model_type: str) -> None:
    """The processor files of the family, with the sizes of the miniature."""
    content = json.dumps(PROCESSORS[model_type], indent=2)
    (folder / "preprocessor_config.json").write_text(content, encoding="utf-8")
    for name, facts in BESIDE.get(model_type, {}).items():
        (folder / name).write_text(json.dumps(facts, indent=2), encoding="utf-8")
