"""What a model that sees or hears needs beside token ids: its features, positions in three dimensions, token types.

All of them are built alike: a backbone that holds the towers and the language model, and an output head outside of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from oxrl_core.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LANGUAGE_PARTS = ("language_model", "text_model")
# A completion cannot hold a placeholder: nothing would stand behind it. Finite, so that 0 x log 0 is 0 in an entropy.
NEVER = -1e9
TWICE, ONCE = "language_model.model.model.", "language_model.model."
_EXPERT = re.compile(r"(?P<place>.*\.experts)\.(?P<index>\d+)\.(?P<part>gate|up|down)_proj\.weight")


def is_multimodal(config: Any) -> bool:
    """Whether the model of this configuration reads images or sound, in a way that is known here."""
    return config.model_type in MODEL_INPUTS


def placeholder_ids(config: Any) -> list[int]:
    """Tokens that stand for features, and so are never drawn; none of a text model."""
    if not is_multimodal(config):
        return []
    names = [f"{kind}_token_{end}" for kind in ("image", "video", "audio") for end in ("id", "index")]
    return sorted({value for name in names if isinstance(value := getattr(config, name, None), int)})


def forbid(logits: Tensor, token_ids: list[int]) -> Tensor:
    """Logits (..., V) under which these tokens have probability 0. The sampler and the trainer both compute so."""
    if not token_ids:
        return logits
    return logits.index_fill(-1, torch.tensor(token_ids, device=logits.device), NEVER)


def with_media(model: PreTrainedModel, inputs: dict[str, Any], media: dict[str, Tensor] | None) -> dict[str, Any]:
    """The inputs (input_ids, attention_mask, position_ids, ...) as the model wants them beside the features."""
    if not is_multimodal(model.config):
        if media is not None:
            raise ModelError(f"{type(model).__name__} reads no images or sound", "model.path", "take a model that does")
        return inputs
    device = inputs["input_ids"].device
    moved = {name: tensor.to(device) for name, tensor in (media or {}).items()}
    return inputs | MODEL_INPUTS[model.config.model_type](model, inputs, moved)


def names_in_files(model: PreTrainedModel, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the model under the names of its published files."""
    from transformers.core_model_loading import revert_weight_conversion

    named = revert_weight_conversion(model, weights)
    # transformers 5 writes this part of Qwen2-Audio's names twice; it reads them again, vLLM and others do not.
    return {name.replace(TWICE, ONCE): tensor for name, tensor in named.items()}


def mend_names(folder: Path) -> None:
    """Gives the files of a saved model the names of its published ones, where transformers writes others."""
    renamed = False
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as opened:
            names, metadata = list(opened.keys()), opened.metadata()
        if any(name.startswith(TWICE) for name in names):
            tensors = {name.replace(TWICE, ONCE): tensor for name, tensor in load_file(path).items()}
            unfinished = path.with_suffix(".renamed")
            save_file(tensors, unfinished, metadata=metadata)
            unfinished.replace(path)
            renamed = True
    index = folder / "model.safetensors.index.json"
    if renamed and index.is_file():
        index.write_text(index.read_text(encoding="utf-8").replace(f'"{TWICE}', f'"{ONCE}'), encoding="utf-8")


def with_packed_experts(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights with the experts of a layer in one tensor, where the live model `own` holds them so: files do not."""
    found: dict[str, Tensor] = {}
    experts: dict[str, dict[int, dict[str, Tensor]]] = {}
    for name, tensor in weights.items():
        match = _EXPERT.fullmatch(name)
        if match is None or f"{match['place']}.gate_up_proj" not in own:
            found[name] = tensor
        else:
            experts.setdefault(match["place"], {}).setdefault(int(match["index"]), {})[match["part"]] = tensor
    for place, parts in experts.items():
        if any(set(part) != {"gate", "up", "down"} for part in parts.values()):
            continue  # whoever compares the names says that they are missing
        ordered = [parts[index] for index in sorted(parts)]
        found[f"{place}.gate_up_proj"] = torch.stack([torch.cat((part["gate"], part["up"])) for part in ordered])
        found[f"{place}.down_proj"] = torch.stack([part["down"] for part in ordered])
    return found


def backbone(model: PreTrainedModel) -> nn.Module:
    """The model without its output head: towers and language model; itself where it has no head."""
    return model.base_model


def tower_names(model: PreTrainedModel) -> list[str]:
    """Names of the parts that are no language: vision or audio towers and what joins them to the language model."""
    if not is_multimodal(model.config):
        return []
    inner = backbone(model)
    before = "" if inner is model else f"{model.base_model_prefix}."
    return [f"{before}{name}" for name, _ in inner.named_children() if name not in LANGUAGE_PARTS]


def towers_pattern(model: PreTrainedModel) -> str | None:
    """A pattern that every module inside a tower matches whole; None of a text model."""
    names = tower_names(model)
    return rf"({'|'.join(map(re.escape, names))})(\..*)?" if names else None


def freeze_towers(model: PreTrainedModel) -> None:
    """Takes towers and projectors out of the training; a text model has none."""
    for name in tower_names(model):
        model.get_submodule(name).requires_grad_(False)


def reach_towers(model: PreTrainedModel, inputs: dict[str, Any]) -> Tensor | None:
    """0, for backward to reach trained towers that these rows do not use; None where there is no need of it.

    The gradient that a step before left on them would count again.
    """
    if not torch.is_grad_enabled() or any(name in inputs for name in ("pixel_values", "input_features")):
        return None
    towers = [parameter for name in tower_names(model) for parameter in model.get_submodule(name).parameters()]
    trained = [parameter.flatten()[:1].sum() * 0.0 for parameter in towers if parameter.requires_grad]
    return torch.stack(trained).sum() if trained else None


def _rotary_in_three(model: PreTrainedModel, inputs: dict[str, Any], media: dict[str, Tensor]) -> dict[str, Any]:
    """Positions (3, B, T) of time, height and width by the model's own function."""
    if not media:
        return {}
    ids = inputs["input_ids"]
    positions, _ = backbone(model).get_rope_index(
        ids,
        mm_token_type_ids=(ids == model.config.image_token_id).int(),
        image_grid_thw=media["image_grid_thw"],
        attention_mask=inputs["attention_mask"].long(),
    )
    return {**media, "position_ids": positions}


def _types_of_tokens(model: PreTrainedModel, inputs: dict[str, Any], media: dict[str, Tensor]) -> dict[str, Any]:
    """1 where a token stands for a part of a picture: those see each other, also backwards."""
    return {**media, "token_type_ids": (inputs["input_ids"] == model.config.image_token_id).long()}


def _one_row_of_tiles(model: PreTrainedModel, inputs: dict[str, Any], media: dict[str, Tensor]) -> dict[str, Any]:
    """All tiles of all pictures as those of one row: the model joins the rows anyway, and drops tiles of zeros."""
    return {name: tensor[None] for name, tensor in media.items()}


def _as_it_is(model: PreTrainedModel, inputs: dict[str, Any], media: dict[str, Tensor]) -> dict[str, Any]:
    return media


MODEL_INPUTS: dict[str, Callable[[Any, dict[str, Any], dict[str, Tensor]], dict[str, Any]]] = {
    "qwen2_vl": _rotary_in_three,
    "qwen2_5_vl": _rotary_in_three,
    "qwen3_vl": _rotary_in_three,
    "qwen3_5": _rotary_in_three,
    "qwen3_5_moe": _rotary_in_three,
    "gemma3": _types_of_tokens,
    "idefics3": _one_row_of_tiles,
    "qwen2_audio": _as_it_is,
}
