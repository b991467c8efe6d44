"""The chat templates of the families that the registry knows: registry/templates/<family>.jinja."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from oxrl_core.config.registry import registry_folder
from oxrl_core.errors import ModelError

# The three special tokens of a miniature, ids 0, 1 and 2: padding, what opens a turn, what ends one (EOS). Whatever
# else a template writes its byte-level tokenizer spells.
_CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_PHI = ("<|endoftext|>", "<|user|>", "<|end|>")
_GEMMA = ("<pad>", "<start_of_turn>", "<end_of_turn>")
TURN_TOKENS: dict[str, tuple[str, str, str]] = {
    **dict.fromkeys(("chatml", "chatml-thinking", "chatml-sep", "chatml-audio", "qwen-vl", "qwen3.5"), _CHATML),
    **dict.fromkeys(("phi3", "phi4-mini"), _PHI),
    **dict.fromkeys(("gemma", "gemma-2"), _GEMMA),
    "llama3": ("<|finetune_right_pad_id|>", "<|start_header_id|>", "<|eot_id|>"),
    "mistral": ("<unk>", "[INST]", "</s>"),
    "deepseek-r1": ("<｜▁pad▁｜>", "<｜User｜>", "<｜end▁of▁sentence｜>"),
    "smolvlm": ("<|im_start|>", "<fake_token_around_image>", "<end_of_utterance>"),
}


def chat_template_of(entry: dict[str, Any], registry: Path | None = None, *, default_system: bool = True) -> str:
    """The chat template of a registry entry, with the system prompt that it writes where none is given, or without."""
    family = str(entry.get("chat_template") or "")
    path = (registry or registry_folder()) / "templates" / f"{family}.jinja"
    if family not in TURN_TOKENS or not path.is_file():
        raise ModelError(f"there is no chat template {family!r}", str(path.parent), f"one of: {', '.join(TURN_TOKENS)}")
    text = path.read_text(encoding="utf-8")
    system = cast("dict[str, Any]", entry.get("template") or {}).get("default_system")
    if default_system and isinstance(system, str):
        text = "{%- set default_system = " + json.dumps(system, ensure_ascii=False) + " -%}\n" + text
    return text
