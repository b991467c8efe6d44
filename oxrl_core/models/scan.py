"""Counts a model's parameters and names its linear layers on the meta device: no weight is made or read.

    python -m oxrl_core.models.scan < config.json
    python -m oxrl_core.models.scan --many < {name: config.json, ...}

It writes {"parameters": ..., "linear": [...], "towers": [...]} or {"error": ...} as JSON; of many, one line each with
its name. What could name code in a configuration (auto_map, private keys, quantization) is taken out before
transformers sees it.
"""

from __future__ import annotations

import json
import sys
from typing import Any

LEFT_OUT = ("auto_map", "transformers_version", "quantization_config", "trust_remote_code", "model_type")


def without_code(value: Any) -> Any:
    """The configuration without keys that name code, at any depth."""
    if isinstance(value, dict):
        inner = {key: without_code(part) for key, part in value.items() if not str(key).startswith("_")}
        return {key: part for key, part in inner.items() if key not in LEFT_OUT or key == "model_type"}
    return [without_code(part) for part in value] if isinstance(value, list) else value


def scan(config: dict[str, Any]) -> dict[str, Any]:
    """Parameters and the last names of the linear layers, of the language model and of its towers."""
    import torch
    from torch import nn
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMultimodalLM

    plain = without_code(config)
    model_type = str(plain.pop("model_type"))
    settings = AutoConfig.for_model(model_type, **plain)
    has_towers = any(key in plain for key in ("vision_config", "audio_config"))
    loader = AutoModelForMultimodalLM if has_towers else AutoModelForCausalLM
    with torch.device("meta"):
        model = loader.from_config(settings)
    head = model.get_output_embeddings()
    linear: dict[str, None] = {}
    towers: dict[str, None] = {}
    for name, part in model.named_modules():
        if isinstance(part, nn.Linear) and part is not head:
            in_tower = any(word in name for word in ("visual", "vision", "audio", "projector", "connector"))
            (towers if in_tower else linear)[name.rpartition(".")[2]] = None
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "linear": list(linear),
        "towers": list(towers),
        "architecture": type(model).__name__,
    }


def answer(config: dict[str, Any]) -> dict[str, Any]:
    """What was found, or why nothing was."""
    try:
        return scan(config)
    except Exception as error:  # of a stranger's configuration; whoever asked reads it
        return {"error": f"{type(error).__name__}: {str(error)[:200]}"}


def main() -> None:
    try:
        asked = json.loads(sys.stdin.read())
    except ValueError as error:
        print(json.dumps({"error": f"{type(error).__name__}: {str(error)[:200]}"}))
        return
    if "--many" in sys.argv[1:]:
        for name, config in asked.items():
            print(json.dumps({"name": name, **answer(config)}), flush=True)
    else:
        print(json.dumps(answer(asked)))


if __name__ == "__main__":
    main()
