"""Whether an exported model loads back as it was written: `python -m oxrl_core.models.reload FOLDER [INITIAL]`.

The last line of the output is JSON: every tensor of the files bit for bit in the loaded model, nothing missing or left
over, and finite log-probs of a fixed row that are equal in two independent loads. With the folder of the initial model,
also how many tensors are others than its own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from oxrl_core.config.schema import ModelConfig
from oxrl_core.models.load import load_policy, load_tokenizer
from oxrl_core.models.multimodal import names_in_files

PROBE = (3, 5, 7, 11, 13, 17)


def reload(folder: Path, initial: Path | None = None) -> dict[str, Any]:
    """What was compared and what differs."""
    written = _weights(folder)
    if not written:
        return {"equal": False, "why": "there are no safetensors in the folder"}
    model = load_policy(folder, ModelConfig(path=str(folder)), _dtype_of(written))
    loaded = dict(model.state_dict())
    if not set(written) <= set(loaded):  # of models that see or hear, files have other names than modules
        loaded = names_in_files(model, loaded)
    different = [name for name, tensor in written.items() if name in loaded and not torch.equal(tensor, loaded[name])]
    missing = sorted(set(written) - set(loaded))
    logprobs = _logprobs(model)
    again = _logprobs(load_policy(folder, ModelConfig(path=str(folder)), _dtype_of(written)))
    finite, same = bool(torch.isfinite(logprobs).all()), bool(torch.equal(logprobs, again))
    tokens = load_tokenizer(folder)("a b c")["input_ids"]
    began = _weights(initial) if initial is not None else {}
    shared = [name for name in written if name in began and began[name].shape == written[name].shape]
    return {
        "moved": sum(not torch.equal(written[name], began[name].to(written[name].dtype)) for name in shared),
        "compared": len(shared),
        "equal": not different and not missing and finite and same and bool(tokens),
        "tensors": len(written),
        "different": different[:5],
        "missing": missing[:5],
        "finite": finite,
        "same_logprobs": same,
    }


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of all files of a folder by name."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def _dtype_of(tensors: dict[str, torch.Tensor]) -> torch.dtype:
    return next((tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()), torch.float32)


def _logprobs(model: Any) -> torch.Tensor:
    ids = torch.tensor([PROBE])
    with torch.no_grad():
        logits = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return torch.log_softmax(logits.float(), dim=-1)


if __name__ == "__main__":
    print(json.dumps(reload(*map(Path, sys.argv[1:3]))))
