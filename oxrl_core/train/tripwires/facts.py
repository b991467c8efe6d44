"""What the tripwires of a run need to know about it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from oxrl_core.algorithms.base import get_algorithm
from oxrl_core.runs.records import read_json
from oxrl_core.train.tripwires.base import Facts

if TYPE_CHECKING:
    from oxrl_core.build import Parts
    from oxrl_core.config.schema import Config


def facts_of(config: Config, parts: Parts) -> Facts:
    """The facts of a run; every rank must call it."""
    learner = parts.learner
    has_adapters = config.model.lora.enabled
    return Facts(
        config=config,
        total_steps=parts.total_steps,
        lesson=get_algorithm(config.algorithm.name).lesson,
        bos_token_id=bos_of(read_json(parts.model_folder / "config.json") or {}, parts.model_folder),
        has_adapters=has_adapters,
        adapted_modules=int(learner.ready()["adapted_modules"]) if has_adapters else 0,
        dead_parameters=lambda: learner.watched().get("dead", []),
        largest_gradients=lambda: learner.watched().get("largest", []),
    )


def bos_of(model_config: dict, folder: Path) -> int | None:
    """The id of the BOS token: the tokenizer's, which writes it, else the one that the model's configuration names.

    A multimodal model names it for its text.
    """
    told = (read_json(folder / "tokenizer_config.json") or {}).get("bos_token")
    text = told.get("content") if isinstance(told, dict) else told
    if isinstance(text, str):
        tokenizer = read_json(folder / "tokenizer.json") or {}
        added = {token.get("content"): token.get("id") for token in tokenizer.get("added_tokens") or []}
        if isinstance(added.get(text), int):
            return added[text]
    token = model_config.get("bos_token_id", (model_config.get("text_config") or {}).get("bos_token_id"))
    return token if isinstance(token, int) else None
