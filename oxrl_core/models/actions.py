"""A model that can say actions: a token for each action in its vocabulary, and what they mean beside its weights."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from oxrl_core.actions import ActionCode
from oxrl_core.errors import ConfigError, ModelError
from oxrl_core.models.load import causal_class, load_tokenizer
from oxrl_core.models.multimodal import names_in_files

ACTIONS_FILE = "actions.json"


def code_of_rows(row: dict[str, object] | None) -> ActionCode:
    """The code that a row of the data names in its column `actions`."""
    facts = (row or {}).get("actions")
    if not isinstance(facts, dict):
        raise ConfigError(
            "model.action_tokens is set, and the rows of data.train have no column `actions`",
            "model.action_tokens",
            "take a dataset of actions (reaching), or write ActionCode.as_dict() into that column of every row",
        )
    return ActionCode.from_dict(facts)


def with_actions(folder: Path, code: ActionCode, target: Path) -> Path:
    """A folder of the same model that has the tokens of the code; the same folder where it has them already.

    The tokens take rows of the embedding that no token of the vocabulary uses; where these are too few, the embedding
    grows. They start untrained either way.
    """
    if (folder / ACTIONS_FILE).is_file():
        check_same_code(folder, code)
        return folder
    if (target / ACTIONS_FILE).is_file():  # of an earlier start of the run
        check_same_code(target, code)
        return target
    tokenizer = load_tokenizer(folder)
    rows = _rows_of_embedding(folder)
    tokens = [AddedToken(f"<act{number}>", special=False, normalized=False) for number in range(code.num_tokens)]
    if tokenizer.add_tokens(tokens) != len(tokens):
        raise ModelError(
            "the tokenizer has action tokens, and there is no actions.json that says what they mean",
            str(folder),
            "take the model as it was before it had them, or put its actions.json back",
        )
    # Written beside and renamed, as every model folder: a killed start leaves no half of one under this name.
    unfinished = target.parent / f".{target.name}-{uuid.uuid4().hex[:8]}"
    unfinished.mkdir(parents=True)
    if len(tokenizer) <= rows:
        _link(folder, unfinished)
    else:
        _grow(folder, unfinished, tokenizer)
    tokenizer.save_pretrained(unfinished)
    (unfinished / ACTIONS_FILE).write_text(json.dumps(code.as_dict(), indent=2), encoding="utf-8")
    try:
        unfinished.rename(target)
    except OSError:  # another rank was first
        shutil.rmtree(unfinished)
        check_same_code(target, code)
    return target


def read_code(folder: Path) -> ActionCode:
    """The code that a model folder's actions.json holds."""
    return ActionCode.from_dict(json.loads((folder / ACTIONS_FILE).read_text(encoding="utf-8")))


def check_same_code(folder: Path, code: ActionCode) -> None:
    """Raises where the model's action tokens mean other actions than those of the data."""
    if read_code(folder) != code:
        raise ModelError(
            "the action tokens of the model mean other actions than those of the data",
            str(folder / ACTIONS_FILE),
            "write the data with the model's own code (ActionCode), or begin with a model without action tokens",
        )


def _rows_of_embedding(folder: Path) -> int:
    facts = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return int((facts.get("text_config") or {}).get("vocab_size") or facts.get("vocab_size") or 0)


def _link(folder: Path, target: Path) -> None:
    """The files of the folder again; the large ones, which nobody writes to, share the disk."""
    for path in folder.iterdir():
        if path.suffix == ".safetensors":
            try:
                os.link(path.resolve(), target / path.name)
                continue
            except OSError:  # another disk
                pass
        if path.is_file():
            shutil.copy(path, target / path.name)


def _grow(folder: Path, target: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """The model with a longer embedding and output head."""
    for path in folder.iterdir():
        if path.is_file() and ".safetensors" not in path.name:
            shutil.copy(path, target / path.name)
    model = causal_class(folder).from_pretrained(folder, dtype="auto", local_files_only=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.save_pretrained(target)
    weights: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():  # a tied head has the embedding's memory, and is written once
        if all(tensor.data_ptr() != kept.data_ptr() for kept in weights.values()):
            weights[name] = tensor.contiguous()
    save_file(names_in_files(model, weights), target / "model.safetensors", metadata={"format": "pt"})
