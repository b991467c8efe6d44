"""The trained model as a folder that transformers and vLLM load."""

from __future__ import annotations

import shutil
import uuid
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import peft
import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from oxrl_core.data.collate import collate_examples
from oxrl_core.engine.checkpoint import sync_below, sync_folder
from oxrl_core.errors import CheckpointError
from oxrl_core.models.heads import ScalarHead, ScoreModel
from oxrl_core.models.load import load_backbone, load_policy, load_scorer, load_tokenizer
from oxrl_core.models.logprobs import PolicyModel
from oxrl_core.models.lora import adapter_settings, adapter_state_dict, copies, merged_state_dict
from oxrl_core.models.multimodal import mend_names
from oxrl_core.rewards.reward_model import ENDING_KEY
from oxrl_core.runs.machine.disk import disk_errors
from oxrl_core.types import Example, TokenBatch

if TYPE_CHECKING:
    from oxrl_core.engine.policy import PolicyEngine

VALUE_HEAD_FILE = "value_head.safetensors"
ADAPTER_FOLDER = "adapter"
CARD_FILE = "README.md"
PROCESSOR_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "chat_template.json",
    "actions.json",  # what the action tokens mean
)


def export_model(policy: PolicyEngine, folder: Path, card: str = "") -> None:
    """Writes merged weights and tokenizer, the adapter in adapter/, a value head beside them. Every rank must call it.

    It is loaded again as anybody would load it, and must hold the bits that the trainer holds and say what the trainer
    says about a row. `card` becomes README.md.
    """
    writes = policy.rank == 0
    weights = merged_state_dict(policy.policy.model, policy.gather, keep=writes)
    adapter: dict[str, Tensor] = {}
    if isinstance(policy.policy.model, peft.PeftModel):
        adapter = adapter_state_dict(policy.policy.model, policy.gather, keep=writes)
    value_head: dict[str, Tensor] = {}
    if policy.value_head is not None:
        value_head = copies(dict(policy.value_head.named_parameters()), policy.gather, keep=writes)
    expected = _answer(policy)
    reason = ""
    if writes:
        with disk_errors(folder.parent, "then start the run again: it goes on from its newest checkpoint"):
            unfinished = _empty_folder(folder)
            _write(policy, unfinished, weights, adapter)
            if value_head:
                save_file(value_head, unfinished / VALUE_HEAD_FILE, metadata={"format": "pt"})
            if card:
                (unfinished / CARD_FILE).write_text(card, encoding="utf-8")
            reason = compare(policy, unfinished, weights, expected)
            if not reason:
                sync_below(unfinished)
                _replace(folder, unfinished)
    # All ranks learn how it went: one that went on alone would wait for the others at the next collective.
    verdict = [reason]
    if policy.world_size > 1:
        dist.broadcast_object_list(verdict, src=0, device=policy.device)
    if verdict[0]:
        raise CheckpointError(verdict[0], str(folder), "the unfinished folder beside it shows what was written")


def _empty_folder(folder: Path) -> Path:
    """A new folder beside it; what earlier attempts left there is gone."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for leftover in folder.parent.glob(f".{folder.name}-*"):
        shutil.rmtree(leftover)
    unfinished = folder.parent / f".{folder.name}-{uuid.uuid4().hex[:8]}"
    unfinished.mkdir()
    return unfinished


def _replace(folder: Path, finished: Path) -> None:
    """Puts the finished folder in the place of an earlier one, if there is one."""
    old = folder.parent / f".{folder.name}-{uuid.uuid4().hex[:8]}"
    if folder.exists():
        folder.rename(old)
    finished.rename(folder)
    sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def probe_row(policy: PolicyEngine) -> TokenBatch:
    """A row of 16 plain tokens: neither padding nor the place of a picture or a sound."""
    configs = (policy.policy.base.config, policy.policy.base.config.get_text_config())
    special = {
        value
        for config in configs
        for name, value in vars(config).items()
        if name.endswith(("_token_id", "_token_index")) and isinstance(value, int)
    }
    tokens = list(islice((token for token in range(configs[1].vocab_size) if token not in special), 16))
    example = Example(token_ids=tokens, completion_mask=[False] + [True] * (len(tokens) - 1))
    return collate_examples([example], 0, packing=False, row_tokens=len(tokens))


def _answer(policy: PolicyEngine) -> Tensor | None:
    """What the trained model says about the probe row: log-probs or the score; a critic is known by its weights."""
    if policy.head == "value":
        return None
    with policy.no_grad():
        row = probe_row(policy)
        answer = policy.scores(row) if policy.head == "score" else policy.logprobs(row, 1.0)[0]
    return answer.cpu()


@torch.no_grad()
def compare(policy: PolicyEngine, folder: Path, weights: dict[str, Tensor], expected: Tensor | None) -> str:
    """Why the written model is not the trained one; empty where every weight is the same bits and the answer agrees.

    On the CPU the answer is the same bits too. Not with adapters, which add in another order than the merged weights.
    """
    # Read on the CPU: a GPU has no room for it twice.
    attention = "sdpa" if policy.config.model.attention == "flash_attention_2" else policy.config.model.attention
    model = policy.config.model.model_copy(update={"gradient_checkpointing": False, "attention": attention})
    loaders = {"score": partial(load_scorer, seed=0), "value": load_backbone}
    found = loaders.get(policy.head, load_policy)(folder, model, policy.dtype)
    state = found.state_dict()
    for name, weight in weights.items():
        if name not in state or not torch.equal(state[name], weight):
            return f"the written model has another {name} than the trained one"
    if expected is None:
        return ""
    row = probe_row(policy)
    inputs = {name: getattr(row, name) for name in ("input_ids", "attention_mask", "position_ids", "segment_ids")}
    if policy.head == "score":
        answer = ScoreModel(found).eval()(**inputs)
    else:
        answer = PolicyModel(found).eval()(**inputs, wanted=row.completion_mask, temperature=1.0)[0]
    is_adapted = isinstance(policy.policy.model, peft.PeftModel)
    is_bitwise = policy.device.type == "cpu" and not is_adapted
    limit = 0.0 if is_bitwise else 1e-4 if policy.precision == "float32" else 0.1
    if bool(((answer - expected).abs() <= limit * (1 + expected.abs())).all()):
        return ""
    return f"the written model says {answer.flatten().tolist()}, the trained one {expected.flatten().tolist()}"


def load_value_head(head: ScalarHead, folder: Path) -> None:
    """Starts a value head from the one that was exported with a model, where its folder holds one."""
    file = folder / VALUE_HEAD_FILE
    if not file.is_file():
        return
    with safe_open(file, "pt") as opened:
        shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118  # no mapping
    if shapes != {name: tuple(parameter.shape) for name, parameter in head.named_parameters()}:
        raise CheckpointError(f"{VALUE_HEAD_FILE} holds {shapes}", str(folder), "remove it to start with a fresh one")
    head.load_state_dict(load_file(file))


def _write(policy: PolicyEngine, folder: Path, weights: dict[str, Tensor], adapter: dict[str, Tensor]) -> None:
    base = policy.policy.base
    # A twin without memory: the training model's parameters may be sharded, wrapped or adapted.
    with torch.device("meta"):
        twin = type(base)(base.config)
    twin.generation_config = getattr(base, "generation_config", None)  # only what generates has one
    if policy.head == "score":
        setattr(twin.config, ENDING_KEY, "eos")  # as data/render.py makes the rows of pairs
    twin.save_pretrained(folder, state_dict=weights)
    mend_names(folder)
    tokenizer = load_tokenizer(policy.model_folder)
    if policy.head == "score":
        tokenizer.pad_token_id = base.config.get_text_config().pad_token_id
    tokenizer.save_pretrained(folder)
    for name in PROCESSOR_FILES:  # what a model that sees or hears is given its pictures with
        if (policy.model_folder / name).is_file():
            shutil.copy(policy.model_folder / name, folder / name)
    if isinstance(policy.policy.model, peft.PeftModel):
        (folder / ADAPTER_FOLDER).mkdir()
        adapter_settings(policy.policy.model).save_pretrained(str(folder / ADAPTER_FOLDER))
        save_file(adapter, folder / ADAPTER_FOLDER / "adapter_model.safetensors", metadata={"format": "pt"})
