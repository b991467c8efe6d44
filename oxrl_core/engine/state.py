"""What a rank writes so that a resumed run is bitwise the same: master weights, moments, counters, random states.

Each rank writes the flat pieces that it owns under ZeRO, as safetensors, and the rest as JSON. No pickle.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from oxrl_core.engine.checkpoint import write_rank_receipt
from oxrl_core.engine.tensor_file import write_record, write_tensors
from oxrl_core.errors import CheckpointError
from oxrl_core.runs.machine.disk import disk_errors

if TYPE_CHECKING:
    from oxrl_core.engine.policy import PolicyEngine

FORMAT = 1
REFERENCE_FILE = "reference.safetensors"


@dataclass
class Snapshot:
    """What one rank is at one moment, in host memory: it can be written while training goes on."""

    rank: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    reference: dict[str, Tensor] = field(default_factory=dict[str, Tensor])  # a refreshed one, of rank 0

    def write(self, folder: Path) -> None:
        """Writes rank-k.safetensors, rank-k.json, a refreshed reference and, last, the receipt rank-k.ok."""
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            weights_file, facts_file = _names(folder, self.rank)
            written = {weights_file.name: write_tensors(weights_file, self.tensors)}
            written[facts_file.name] = write_record(facts_file, self.facts)
            if self.reference:
                written[REFERENCE_FILE] = write_tensors(folder / REFERENCE_FILE, self.reference)
            write_rank_receipt(folder, self.rank, written)


def take_snapshot(policy: PolicyEngine, *, copy: bool) -> Snapshot:
    """All that this rank needs to go on exactly here; every rank must call it.

    `copy` false: tensors of the CPU are the trainer's own, to be written before it goes on.
    """
    tensors: dict[str, Tensor] = {}
    optimizer = base_optimizer(policy)
    for index, master in enumerate(masters(policy)):
        # Without ZeRO all ranks hold the same; the first one's copy serves all.
        if policy.zero_stage == 0 and policy.rank > 0:
            break
        tensors[f"{index}.master"] = _plain(master, copy)
        for name, value in optimizer.state.get(master, {}).items():
            tensors[f"{index}.{name}"] = _plain(value, copy)
    states, scalars = random_states(policy.device)
    tensors |= states
    is_refreshed = policy.reference is not None and policy.reference.is_refreshed
    facts = {
        **_identity(policy),
        "num_steps": policy.num_steps,
        "running": dict(policy.running),
        "reference_is_refreshed": is_refreshed,
        "random": scalars,
    }
    snapshot = Snapshot(policy.rank, tensors, facts)
    if policy.reference is not None and is_refreshed:
        reference = policy.reference.tensors(policy.gather, keep=policy.rank == 0)
        snapshot.reference = {name: _plain(value, copy) for name, value in reference.items()}
    return snapshot


def load_state(policy: PolicyEngine, folder: Path) -> None:
    """Puts back what a snapshot wrote; refuses a checkpoint of another shape."""
    weights_file, facts_file = _names(folder, policy.rank)
    try:
        facts = json.loads(facts_file.read_text(encoding="utf-8"))
        tensors = load_file(weights_file)
        shared = load_file(_names(folder, 0)[0]) if policy.zero_stage == 0 and policy.rank > 0 else tensors
    except FileNotFoundError as error:
        raise CheckpointError(
            f"rank {policy.rank} has no part in this checkpoint: {error.filename} is missing",
            str(folder),
            "resume with the train.num_workers of the run that wrote it",
        ) from error
    facts = {"head": "tokens", **facts}  # the first format had no other
    for key, mine in _identity(policy).items():
        if facts.get(key) != mine:
            raise CheckpointError(
                f"the checkpoint was written with {key} = {facts.get(key)}, this run has {mine}",
                str(folder),
                "resume with the same model, train.num_workers, deepspeed.zero_stage and model.precision",
            )
    optimizer = base_optimizer(policy)
    with torch.no_grad():
        for index, master in enumerate(masters(policy)):
            prefix = f"{index}."
            mine = {name.removeprefix(prefix): value for name, value in shared.items() if name.startswith(prefix)}
            master.data.copy_(mine.pop("master"))
            optimizer.state[master] = {
                # AdamW keeps its step count on the CPU, its moments where the weights are.
                name: value.clone() if name == "step" else value.to(master.device)
                for name, value in mine.items()
            }
            if not mine:
                optimizer.state.pop(master)
    refresh_weights(policy)
    _load_reference(policy, folder, bool(facts.get("reference_is_refreshed")))
    policy.num_steps = int(facts["num_steps"])
    policy.running = {str(name): float(value) for name, value in facts.get("running", {}).items()}
    restore_random_states(tensors, facts["random"], policy.device)


def _load_reference(policy: PolicyEngine, folder: Path, is_refreshed: bool) -> None:
    if policy.reference is None:
        return  # dropped, or nobody here asks it
    if not is_refreshed:
        policy.reference.reset()
        return
    try:
        tensors = load_file(folder / REFERENCE_FILE)
    except FileNotFoundError as error:
        raise CheckpointError("the refreshed reference is missing", str(folder), "take another checkpoint") from error
    policy.reference.restore(tensors, policy.gather_to_write)


def base_optimizer(policy: PolicyEngine) -> torch.optim.Optimizer:
    """The AdamW under DeepSpeed's wrapping, which holds the moments."""
    return policy.engine.basic_optimizer


def masters(policy: PolicyEngine) -> list[Tensor]:
    """The float32 tensors on this rank that AdamW updates, in a fixed order."""
    optimizer = policy.engine.optimizer
    if policy.zero_stage == 0:
        return [parameter for parameter in policy.policy.parameters() if parameter.requires_grad]
    if policy.zero_stage == 3:
        return list(optimizer.fp32_partitioned_groups_flat)
    if hasattr(optimizer, "single_partition_of_fp32_groups"):
        return list(optimizer.single_partition_of_fp32_groups)
    return list(optimizer.fp32_groups_flat_partition)  # stage 1 in bfloat16 has an optimizer of its own


def refresh_weights(policy: PolicyEngine) -> None:
    """Computes the weights of the forward pass anew from the master weights, on all ranks."""
    optimizer = policy.engine.optimizer
    if policy.zero_stage in (1, 2):
        optimizer.update_lp_params()
    elif policy.zero_stage == 3:
        for flat, master in zip(
            optimizer.fp16_partitioned_groups_flat, optimizer.fp32_partitioned_groups_flat, strict=True
        ):
            flat.data.copy_(master.data)
        persistent = optimizer.persistent_parameters
        if persistent:
            persistent[0].all_gather(persistent)


def random_states(device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """States of torch's, numpy's and Python's generators: as tensors, and as JSON."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    tensors = {"random.torch": torch.get_rng_state(), "random.numpy": torch.from_numpy(keys.astype(np.int64))}
    if device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(device)
    scalars = {
        "python": [version, list(words), gauss],
        "numpy": [str(kind), int(position), int(has_gauss), float(cached)],
    }
    return tensors, scalars


def restore_random_states(tensors: dict[str, Tensor], scalars: dict[str, Any], device: torch.device) -> None:
    """Puts back what random_states gave."""
    version, words, gauss = scalars["python"]
    random.setstate((version, tuple(words), gauss))
    kind, position, has_gauss, cached = scalars["numpy"]
    keys = tensors["random.numpy"].numpy().astype(np.uint32)
    np.random.set_state((kind, keys, position, has_gauss, cached))
    torch.set_rng_state(tensors["random.torch"])
    if device.type == "cuda" and "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"], device)


def _identity(policy: PolicyEngine) -> dict[str, Any]:
    """What must be equal for the flat pieces to mean the same."""
    return {
        "format": FORMAT,
        "head": policy.head,
        "world_size": policy.world_size,
        "zero_stage": policy.zero_stage,
        "precision": policy.precision,
        "parameters": policy.num_parameters,
        "trained_parameters": policy.num_trained,
    }


def _names(folder: Path, rank: int) -> tuple[Path, Path]:
    return folder / f"rank-{rank:05d}.safetensors", folder / f"rank-{rank:05d}.json"


def _plain(tensor: Tensor, copy: bool) -> Tensor:
    return tensor.detach().to("cpu", copy=copy).contiguous()
