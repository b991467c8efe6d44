"""Weights, optimizer and schedule of the trained policy on one rank: DeepSpeed behind a dozen plain methods.

The gradient of a step is the plain SUM of d(loss) over all micro-batches and all ranks; the caller has divided the loss
by the items of the whole step. Nothing is averaged behind its back.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import peft
import torch
import torch.distributed as dist
from torch import Tensor, nn

from oxrl_core.config.deepspeed import deepspeed_config, resolve_precision, resolve_zero_stage
from oxrl_core.engine.schedule import learning_rate
from oxrl_core.engine.state import load_state, save_state
from oxrl_core.errors import ConfigError, MachineError, ModelError, NumericsError
from oxrl_core.models.load import load_policy, load_tokenizer
from oxrl_core.models.logprobs import PolicyModel, unpack
from oxrl_core.models.lora import adapter_state_dict, add_lora, bound_modules, merged_state_dict
from oxrl_core.types import TokenBatch

if TYPE_CHECKING:
    from oxrl_core.config.schema import Config, TrainConfig


class PolicyEngine:
    """The policy on one training rank. Every rank calls every method in the same order.

    ZeRO 0 to 3 through DeepSpeed, AdamW with float32 master weights. In bfloat16 stage 0 runs as stage 1 (same numbers:
    DeepSpeed keeps master weights from stage 1 on).
    """

    def __init__(
        self,
        config: Config,
        model_folder: Path,
        *,
        rank: int,
        world_size: int,
        total_steps: int,
        with_reference: bool | None = None,
    ) -> None:
        """`with_reference` none: as algorithm.kl_coef asks; with LoRA the reference is the base and costs nothing."""
        self.config = config
        self.model_folder = model_folder
        self.rank = rank
        self.world_size = world_size
        self.total_steps = total_steps
        self.num_steps = 0  # optimizer steps taken
        self.device = join_ranks(rank, world_size, config.run.call_timeout_seconds)
        self.precision = resolve_precision(config, on_gpu=self.device.type == "cuda")
        self.dtype = torch.bfloat16 if self.precision == "bfloat16" else torch.float32
        self.zero_stage = resolve_zero_stage(config, self.precision)
        check_offloading(config, self.zero_stage, self.device)

        model: nn.Module = load_policy(model_folder, config.model, self.dtype)
        silence_dropout(model)
        wants_reference = config.algorithm.kl_coef > 0 if with_reference is None else with_reference
        self.reference: PolicyModel | None = None
        if config.model.lora.enabled:
            model = add_lora(model, config.model.lora, config.run.seed)
        elif wants_reference:
            self.reference = self._load_reference()
        self.policy = PolicyModel(model)
        self.head_difference = self.policy.check_head()
        self.policy.train()
        self.trained = [name for name, parameter in self.policy.model.named_parameters() if parameter.requires_grad]
        self.num_parameters = sum(parameter.numel() for parameter in model.parameters())
        self.num_trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        self.engine = self._wrap()

    # ---- the signals -------------------------------------------------------------------------------------------------

    def logprobs(
        self, batch: TokenBatch, temperature: float, with_entropy: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Log-probs (B, T) of the completion tokens at `temperature`, with gradient, and entropies; elsewhere 0."""
        return self.engine(**self._inputs(batch), temperature=temperature, with_entropy=with_entropy)

    @torch.no_grad()
    def reference_logprobs(self, batch: TokenBatch, temperature: float) -> Tensor:
        """Log-probs (B, T) of the completion tokens under the initial policy."""
        if isinstance(self.policy.model, peft.PeftModel):
            with self.no_grad(), self.policy.model.disable_adapter():
                return self.logprobs(batch, temperature)[0]
        if self.reference is None:
            raise ConfigError("no reference policy was loaded", "algorithm.kl_coef", "set kl_coef above 0")
        return self.reference(**self._inputs(batch), temperature=temperature)[0]

    @contextlib.contextmanager
    def no_grad(self) -> Iterator[None]:
        """Within it log-probs carry no gradient and adapters drop nothing."""
        was_training = self.policy.training
        self.policy.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.policy.train(was_training)

    def packing_is_exact(self, batch: TokenBatch) -> bool:
        """Whether the packed rows of this batch give the log-probs that its examples have on their own.

        Measured, because window attention, linear attention and the like do not obey a mask per pair of tokens. With
        ZeRO 3 every rank must call it.
        """
        if not self.policy.can_pack():
            return False
        rows, source = unpack(batch)
        with self.no_grad():
            packed = self.logprobs(batch, 1.0)[0].flatten()
            alone = self.logprobs(rows, 1.0)[0]
        trained = rows.completion_mask.to(alone.device)
        difference = (packed[source.to(alone.device).clamp(min=0)] - alone)[trained].abs()
        if difference.numel() == 0:
            return True
        if self.precision == "float32":
            return float(difference.max()) <= 1e-4
        return float(difference.mean()) <= 0.02  # rounding of bfloat16; a leak between examples is ten times that

    # ---- the update --------------------------------------------------------------------------------------------------

    def backward(self, loss: Tensor, last: bool) -> None:
        """Adds d(loss) to the gradient of the step; `last` marks the step's last micro-batch.

        The loss is already divided by the items of the whole step, all ranks. Ranks must call it equally often: one
        with fewer micro-batches goes on with a batch that trains on nothing (loss 0; its collectives meet the others').
        """
        self.engine.set_gradient_accumulation_boundary(last)
        # DeepSpeed averages over ranks; the gradient wanted is the sum. Its accumulation scaling is off.
        self.engine.backward(loss * self.world_size, scale_wrt_gas=False)

    def step(self) -> dict[str, float]:
        """Learning rate and global gradient norm (before clipping) of the update that it takes."""
        rate = learning_rate(self.num_steps, self.config.train, self.total_steps)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        plain = self._plain_gradient_norm()  # without ZeRO, DeepSpeed clips but does not say the norm
        if plain is not None:
            self._require_finite(plain)
        self.engine.step()
        norm = plain if plain is not None else float(self.engine.get_global_grad_norm())
        self._require_finite(norm)
        self.num_steps += 1
        return {"lr": rate, "grad_norm": norm}

    def _plain_gradient_norm(self) -> float | None:
        if self.zero_stage > 0:
            return None
        gradients = [p.grad for p in self.policy.parameters() if p.grad is not None]
        return float(nn.utils.get_total_norm(gradients))

    def _require_finite(self, norm: float) -> None:
        if not torch.isfinite(torch.tensor(norm)):
            raise NumericsError(
                f"the gradient norm is {norm}",
                f"step {self.num_steps + 1}, rank {self.rank}",
                "go on from the last checkpoint with a lower train.lr or precision float32; look at the last rollouts",
            )

    # ---- weights in and out ------------------------------------------------------------------------------------------

    def export_weights(self) -> dict[str, Tensor] | None:
        """CPU copies of the weights under the names of the model's files, adapters merged; None but on rank 0."""
        from transformers.core_model_loading import revert_weight_conversion

        weights = merged_state_dict(self.policy.model, self._gather, keep=self.rank == 0)
        return revert_weight_conversion(self.policy.causal, weights) if self.rank == 0 else None

    def export_model(self, folder: Path) -> None:
        """Writes a folder that transformers and vLLM load: merged weights and tokenizer; the adapter in adapter/."""
        weights = merged_state_dict(self.policy.model, self._gather, keep=self.rank == 0)
        adapter: dict[str, Tensor] = {}
        if isinstance(self.policy.model, peft.PeftModel):
            adapter = adapter_state_dict(self.policy.model, self._gather, keep=self.rank == 0)
        if self.rank == 0:
            self._write_model(folder, weights, adapter)
        if self.world_size > 1:
            dist.barrier()

    def save(self, folder: Path) -> None:
        """Writes this rank's share of all that a bit-exact resume needs: safetensors and JSON, no pickle."""
        save_state(self, folder)

    def load(self, folder: Path) -> None:
        """Goes on exactly where save() was called; same ranks, same ZeRO stage, same model."""
        load_state(self, folder)

    def describe(self) -> dict[str, Any]:
        """What this rank holds, for logs and the run directory."""
        return {
            "architecture": type(self.policy.causal).__name__,
            "parameters": self.num_parameters,
            "trained_parameters": self.num_trained,
            "adapted_modules": len(bound_modules(self.policy.model)),
            "device": str(self.device),
            "precision": self.precision,
            "zero_stage": self.zero_stage,
            "world_size": self.world_size,
            "head_difference": self.head_difference,
        }

    # ---- making of ---------------------------------------------------------------------------------------------------

    def _inputs(self, batch: TokenBatch) -> dict[str, Tensor]:
        return {
            "input_ids": batch.input_ids.to(self.device),
            "attention_mask": batch.attention_mask.to(self.device),
            "position_ids": batch.position_ids.to(self.device),
            "segment_ids": batch.segment_ids.to(self.device),
            "wanted": batch.completion_mask.to(self.device),
        }

    def _load_reference(self) -> PolicyModel:
        model = load_policy(self.model_folder, self.config.model, self.dtype)
        reference = PolicyModel(model)
        reference.check_head()
        return reference.requires_grad_(False).eval().to(self.device)

    def _wrap(self) -> Any:
        """The DeepSpeed engine around the policy."""
        import deepspeed
        from deepspeed.utils import set_z3_leaf_modules

        from oxrl_core.models.logprobs import ChunkedHead

        if self.zero_stage == 3:
            set_z3_leaf_modules(self.policy, [ChunkedHead])
        # The module is cast to bfloat16 as a whole; position tables must stay float32 or far positions blur.
        tables = {name: buffer for name, buffer in self.policy.named_buffers() if buffer.is_floating_point()}
        engine, *_ = deepspeed.initialize(
            model=self.policy,
            optimizer=make_optimizer(self.policy, self.config.train),
            config=deepspeed_config(
                self.config,
                self.world_size,
                precision=self.precision,
                on_gpu=self.device.type == "cuda",
                whole_below=whole_below(self.policy),
            ),
            dist_init_required=False,
        )
        for name, table in tables.items():
            owner, _, last = name.rpartition(".")
            self.policy.get_submodule(owner)._buffers[last] = table.to(self.device)
        return engine

    def _gather(self, parameters: Sequence[nn.Parameter]) -> AbstractContextManager[object]:
        if self.zero_stage < 3:
            return contextlib.nullcontext()
        import deepspeed

        return deepspeed.zero.GatheredParameters(list(parameters))

    def _write_model(self, folder: Path, weights: dict[str, Tensor], adapter: dict[str, Tensor]) -> None:
        from safetensors.torch import save_file

        causal = self.policy.causal
        unfinished = folder.parent / f".{folder.name}-{uuid.uuid4().hex[:8]}"
        unfinished.mkdir(parents=True)
        # A twin without memory: the training model's parameters may be sharded, wrapped or adapted.
        with torch.device("meta"):
            twin = type(causal)(causal.config)
        twin.generation_config = causal.generation_config
        twin.save_pretrained(unfinished, state_dict=weights)
        load_tokenizer(self.model_folder).save_pretrained(unfinished)
        if isinstance(self.policy.model, peft.PeftModel):
            settings = self.policy.model.peft_config["default"]
            (unfinished / "adapter").mkdir()
            settings.save_pretrained(str(unfinished / "adapter"))
            save_file(adapter, unfinished / "adapter" / "adapter_model.safetensors", metadata={"format": "pt"})
        old = folder.parent / f".{folder.name}-{uuid.uuid4().hex[:8]}"
        if folder.exists():
            folder.rename(old)
        unfinished.rename(folder)
        shutil.rmtree(old, ignore_errors=True)


def join_ranks(rank: int, world_size: int, timeout_seconds: float) -> torch.device:
    """This rank's device, once all ranks have met; gloo on CPUs, nccl on GPUs, every collective with the deadline."""
    use_gpu = torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR", "cuda") == "cuda"
    local_rank = int(os.environ.setdefault("LOCAL_RANK", "0"))
    if world_size > 1:  # a process that is alone must not look like a rank of torchrun to the children that it starts
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size))
    if not use_gpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # Else the first start compiles a C++ extension for a minute, which needs a compiler and buys nothing here.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    device = torch.device("cuda", local_rank) if use_gpu else torch.device("cpu")
    if use_gpu:
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        deadline = timedelta(seconds=timeout_seconds)
        backend = "nccl" if use_gpu else "gloo"
        if world_size == 1:  # no port: nobody else has to find it
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=deadline)
        elif "MASTER_ADDR" not in os.environ or "MASTER_PORT" not in os.environ:
            raise MachineError(
                "MASTER_ADDR and MASTER_PORT are not set", f"rank {rank}", "start the ranks with torchrun or Ray"
            )
        else:
            dist.init_process_group(backend, rank=rank, world_size=world_size, timeout=deadline)
    if dist.get_world_size() != world_size or dist.get_rank() != rank:
        raise MachineError(
            f"this process is already rank {dist.get_rank()} of {dist.get_world_size()}",
            f"rank {rank} of {world_size}",
            "use one process for each rank",
        )
    deepspeed.init_distributed(dist_backend=dist.get_backend(), auto_mpi_discovery=False, verbose=False)
    return device


def silence_dropout(model: nn.Module) -> None:
    """Turns the model's own dropout off: it would make the log-probs of the same tokens differ from call to call."""
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        for name, value in vars(part).items():
            if "dropout" in name and isinstance(value, float):
                setattr(part, name, 0.0)


def make_optimizer(policy: nn.Module, train: TrainConfig) -> torch.optim.AdamW:
    """AdamW over the trained parameters; weight decay acts on matrices, not on biases and norms."""
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    if not trained:
        raise ModelError("no parameter of the model is trained", "model", "turn model.lora on or train all weights")
    matrices = [parameter for parameter in trained if parameter.ndim >= 2]
    vectors = [parameter for parameter in trained if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": train.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=train.lr, betas=train.betas, eps=train.eps)


def whole_below(policy: nn.Module) -> int:
    """ZeRO 3 leaves vectors whole on every rank and shards matrices, whatever the size of the model."""
    return max((parameter.numel() for parameter in policy.parameters() if parameter.ndim < 2), default=0)


def check_offloading(config: Config, zero_stage: int, device: torch.device) -> None:
    """Raises where something is to be offloaded that is not sharded, or from a device that has no other memory."""
    settings = config.deepspeed
    for wanted, key, needed_stage in (
        (settings.offload_optimizer, "offload_optimizer", 1),
        (settings.offload_params, "offload_params", 3),
    ):
        if wanted and (device.type != "cuda" or zero_stage < needed_stage):
            raise ConfigError(f"{key} needs a GPU and ZeRO {needed_stage} or more", f"deepspeed.{key}", "turn it off")
