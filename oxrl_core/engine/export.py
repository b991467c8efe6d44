"""The trained model as a folder that transformers and vLLM load."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import peft
import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from oxrl_core.errors import CheckpointError
from oxrl_core.models.heads import ScalarHead, ScoreModel
from oxrl_core.models.load import load_scorer, load_tokenizer
from oxrl_core.models.lora import adapter_settings, adapter_state_dict, copies, merged_state_dict
from oxrl_core.rewards.reward_model import ENDING_KEY

if TYPE_CHECKING:
    from oxrl_core.engine.policy import PolicyEngine

VALUE_HEAD_FILE = "value_head.safetensors"
ADAPTER_FOLDER = "adapter"
PROCESSOR_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "chat_template.json",
)


def export_model(policy: PolicyEngine, folder: Path) -> None:
    """Writes merged weights and tokenizer, the adapter in adapter/, a value head beside them. Every rank must call it.

    A reward model is loaded again and must give the scores that it gave in training.
    """
    writes = policy.rank == 0
    weights = merged_state_dict(policy.policy.model, policy.gather, keep=writes)
    adapter: dict[str, Tensor] = {}
    if isinstance(policy.policy.model, peft.PeftModel):
        adapter = adapter_state_dict(policy.policy.model, policy.gather, keep=writes)
    value_head: dict[str, Tensor] = {}
    if policy.value_head is not None:
        value_head = copies(dict(policy.value_head.named_parameters()), policy.gather, keep=writes)
    rows = probe_row(policy) if policy.head == "score" else {}
    with policy.no_grad():
        expected = policy.engine(**rows) if rows else None
    reason = ""
    if writes:
        unfinished = folder.parent / f".{folder.name}-{uuid.uuid4().hex[:8]}"
        unfinished.mkdir(parents=True)
        _write(policy, unfinished, weights, adapter)
        if value_head:
            save_file(value_head, unfinished / VALUE_HEAD_FILE, metadata={"format": "pt"})
        if expected is not None:
            reason = compare_scorer(policy, unfinished, weights, rows, expected)
        if not reason:
            old = folder.parent / f".{folder.name}-{uuid.uuid4().hex[:8]}"
            if folder.exists():
                folder.rename(old)
            unfinished.rename(folder)
            shutil.rmtree(old, ignore_errors=True)
    # All ranks learn how it went: one that went on alone would wait for the others at the next collective.
    verdict = [reason]
    if policy.world_size > 1:
        dist.broadcast_object_list(verdict, src=0, device=policy.device)
    if verdict[0]:
        raise CheckpointError(verdict[0], str(folder), "the unfinished folder beside it shows what was written")


def probe_row(policy: PolicyEngine) -> dict[str, Tensor]:
    """A row of 16 tokens that ends with no padding."""
    config = policy.policy.base.config.get_text_config()
    tokens = [token for token in range(min(17, config.vocab_size)) if token != config.pad_token_id][-16:]
    ids = torch.tensor([tokens], device=policy.device)
    ones = torch.ones_like(ids)
    places = torch.arange(len(tokens), device=policy.device)[None]
    return {"input_ids": ids, "attention_mask": ones.bool(), "position_ids": places, "segment_ids": ones}


@torch.no_grad()
def compare_scorer(
    policy: PolicyEngine, folder: Path, weights: dict[str, Tensor], rows: dict[str, Tensor], expected: Tensor
) -> str:
    """Why the written reward model is not the trained one; empty where every weight and the score are the same bits.

    Adapters are compared merged, by their weights alone: a score adds them in another order than it multiplies a sum.
    """
    model = policy.config.model.model_copy(update={"gradient_checkpointing": False})
    scorer = load_scorer(folder, model, policy.dtype, seed=0)
    found = scorer.state_dict()
    for name, weight in weights.items():
        if name not in found or not torch.equal(found[name], weight):
            return f"the written reward model has another {name} than the trained one"
    if isinstance(policy.policy.model, peft.PeftModel):
        return ""
    score = ScoreModel(scorer).eval().to(policy.device)(**rows)
    # A GPU chooses among kernels by where the weights lie in memory, which is not where training had them.
    limit = 0.0 if policy.device.type == "cpu" else 1e-4 if policy.precision == "float32" else 0.1
    if bool(((score - expected).abs() <= limit * (1 + expected.abs())).all()):
        return ""
    return f"the written reward model scores {score.tolist()}, in training {expected.tolist()}"


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
