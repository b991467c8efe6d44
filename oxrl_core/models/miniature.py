"""Miniature models: the real architecture, random weights, some hundred kilobytes, made on the spot without a download.

`chars` is a Qwen3 of 0.4M parameters that reads 19 characters: it learns small tasks from nothing in a minute on one
CPU core. Every other name is an entry of the registry: the same architecture with few and narrow layers, a byte-level
tokenizer of 320 tokens, and the chat template of its family without the system prompt that the family adds by itself.
Those that see or hear have a ChatML template with the family's markers.
"""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from oxrl_core.config.registry import entry_of_slug, model_slugs
from oxrl_core.config.templates import TURN_TOKENS, chat_template_of
from oxrl_core.errors import ModelError
from oxrl_core.models.miniature_media import SMALL_MEDIA, add_placeholders, open_eyes, shrink_media, write_processor
from oxrl_core.models.multimodal import names_in_files

CHARACTERS = "0123456789+-=:> ?"
CHARS_ARCHITECTURE: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 2 + len(CHARACTERS),
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}

# Enough to keep what makes an architecture itself (grouped queries, biases, tied embeddings, rotary scaling).
# Heads of 32: vLLM on the CPU has no kernel for smaller ones.
SMALL_HEAD = 32
SMALL_TEXT: dict[str, Any] = {
    "num_hidden_layers": 2,
    "hidden_size": 4 * SMALL_HEAD,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_SMALL_GEMMA: dict[str, Any] = {"head_dim": SMALL_HEAD, "query_pre_attn_scalar": SMALL_HEAD, "sliding_window": 8}
# model_type -> what has to shrink besides. qwen3: head_dim does not follow from hidden_size.
SMALL_BY_TYPE: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "qwen3": {"head_dim": SMALL_HEAD},
    "llama": {},
    "mistral": {"head_dim": SMALL_HEAD},
    "gemma2": _SMALL_GEMMA,
    # Two layers of its pattern of six would both be sliding ones.
    "gemma3_text": {**_SMALL_GEMMA, "layer_types": ["sliding_attention", "full_attention"]},
    "phi3": {},
}

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
)  # ids 0 (pad), 1, 2 (EOS), where a family has no others
# 61 merges of frequent pairs, written out so that the vocabulary (3 + 256 + 61 = 320) is the same on every machine.
MERGES = (  # noqa: SIM905  # one line of pairs reads better than 61 quoted strings
    "Ġt Ġa Ġs Ġw Ġo Ġf Ġb Ġc Ġh Ġm Ġp Ġd Ġi Ġl Ġn Ġr Ġe Ġg he in er an re on at en nd st es or te of ed is it al ar "
    "ou ng ve le me se nt ti ha hi as to ro li ri io us ic ur ma co om ll ay"
).split()
# The split of Qwen2: digits stay single, a space belongs to the word after it.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_miniature(name: str, folder: Path, seed: int) -> Path:
    """Folder of a freshly made Hugging Face model (safetensors and tokenizer); the same seed gives the same weights."""
    if name == "chars":
        architecture, tokenizer = CHARS_ARCHITECTURE, _character_tokenizer()
    else:
        entry = read_registry_entry(name)
        architecture = shrink(entry["architecture"])
        family = str(entry.get("chat_template") or "")
        if family in TURN_TOKENS and architecture["model_type"] not in SMALL_MEDIA:
            tokenizer = _byte_tokenizer(TURN_TOKENS[family], chat_template_of(entry, default_system=False))
        else:
            tokenizer = _byte_tokenizer(SPECIAL_TOKENS, CHATML)
    reads_media = architecture["model_type"] in SMALL_MEDIA
    rest = {key: value for key, value in architecture.items() if key not in ("model_type", "transformers_version")}
    config = AutoConfig.for_model(architecture["model_type"], **rest)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if reads_media:
            model = AutoModelForMultimodalLM.from_config(config, dtype=torch.float32)
            open_eyes(model)
        else:
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    facts = config.get_text_config()
    model.generation_config = GenerationConfig(
        eos_token_id=facts.eos_token_id, pad_token_id=facts.pad_token_id, do_sample=True
    )
    # Written beside and renamed: another rank or an earlier, killed start never leaves half a model under this name.
    unfinished = folder.parent / f".{folder.name}-{uuid.uuid4().hex[:8]}"
    _save(model, unfinished)
    if reads_media:
        add_placeholders(tokenizer, architecture["model_type"])
        write_processor(unfinished, architecture["model_type"])
    tokenizer.save_pretrained(unfinished)
    try:
        unfinished.rename(folder)
    except OSError:
        shutil.rmtree(unfinished)
        if not (folder / "config.json").is_file():
            raise ModelError(
                f"cannot write the miniature '{name}': the folder exists and holds no model",
                str(folder),
                "remove the folder or give another one",
            ) from None
    return folder


def _save(model: PreTrainedModel, folder: Path) -> None:
    """Writes what save_pretrained would; that one writes nothing on the ranks of torchrun other than the first."""
    folder.mkdir(parents=True)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    weights: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():  # a tied head has the embedding's memory, and is written once
        if all(tensor.data_ptr() != kept.data_ptr() for kept in weights.values()):
            weights[name] = tensor
    if model.config.model_type in SMALL_MEDIA:  # whose files have other names than the modules
        weights = names_in_files(model, weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def shrink(architecture: dict[str, Any]) -> dict[str, Any]:
    """A config.json of the same architecture with few and narrow layers and a vocabulary of 320."""
    model_type = architecture["model_type"]
    if model_type in SMALL_MEDIA:
        return shrink_media(architecture)
    if model_type not in SMALL_BY_TYPE:
        known = ", ".join([*SMALL_BY_TYPE, *SMALL_MEDIA])
        raise ModelError(
            f"there is no rule to shrink the architecture '{model_type}'; there is one for: {known}",
            "oxrl_core/models/miniature.py",
            "add the keys that must shrink to SMALL_BY_TYPE",
        )
    small = {**architecture, **SMALL_TEXT, **SMALL_BY_TYPE[model_type]}
    if "head_dim" in architecture:
        small["head_dim"] = SMALL_HEAD
    scaling = architecture.get("rope_scaling")
    if scaling and "long_factor" in scaling:  # one factor for each pair of dimensions that turns
        pairs = int(SMALL_HEAD * architecture.get("partial_rotary_factor", 1.0)) // 2
        small["rope_scaling"] = {**scaling, **{key: scaling[key][:pairs] for key in ("short_factor", "long_factor")}}
    return small


def read_registry_entry(slug: str) -> dict[str, Any]:
    """The entry registry/models/<slug>.yaml as a mapping."""
    content = entry_of_slug(slug)
    if content is None:
        raise ModelError(
            f"there is no miniature '{slug}'; there are: {', '.join(['chars', *model_slugs()])}",
            "model.path",
            "take one of these names, or give a local folder or a hub id",
        )
    if not isinstance(content.get("architecture"), dict):
        raise ModelError(
            f"the registry's entry '{slug}' does not say the architecture, so there is no miniature of it",
            "model.path",
            "onboard the model once more: its config.json is then kept in the entry",
        )
    return content


def _character_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character. It knows no unknown token: a character it cannot read is an error, not a "?"."""
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<eos>", *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        model_max_length=CHARS_ARCHITECTURE["max_position_embeddings"],
        clean_up_tokenization_spaces=False,
    )


def _byte_tokenizer(tokens: tuple[str, str, str], template: str) -> PreTrainedTokenizerFast:
    """Every byte is a token, so any text can be read; 61 merges give it the shape of a real vocabulary."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [(pair[0], pair[1]) for pair in MERGES]
    vocabulary = {token: index for index, token in enumerate([*tokens, *alphabet, *MERGES])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=tokens[0],
        eos_token=tokens[2],
        # Qwen2's own class would add one of its own for what nobody names.
        unk_token=None if tokens == SPECIAL_TOKENS else tokens[0],
        additional_special_tokens=[tokens[1]],
        chat_template=template,
        model_max_length=32768,
        clean_up_tokenization_spaces=False,
    )
