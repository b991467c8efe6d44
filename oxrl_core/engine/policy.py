"""Weights, optimizer and schedule of the trained policy on one rank: DeepSpeed behind a dozen plain methods.

The gradient of a step is the plain SUM of d(loss) over all micro-batches and all ranks; the caller has divided the loss
by the items of the whole step. Nothing is averaged behind its back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import peft
import torch
from torch import Tensor, nn

from oxrl_core.algorithms.base import REFERENCED_SIGNALS, get_algorithm
from oxrl_core.config.deepspeed import deepspeed_config, resolve_precision, resolve_zero_stage
from oxrl_core.engine.environment import keep_freed_memory
from oxrl_core.engine.export import export_model, load_value_head
from oxrl_core.engine.ranks import join_ranks
from oxrl_core.engine.reference import AdapterReference, WholeReference
from oxrl_core.engine.schedule import learning_rate
from oxrl_core.engine.state import Snapshot, load_state, take_snapshot
from oxrl_core.engine.update_watch import UpdateWatch, plain_gradient_norm, require_finite
from oxrl_core.errors import ConfigError, ModelError
from oxrl_core.models.heads import ScalarHead, ScoreModel, ValueModel, make_value_head
from oxrl_core.models.load import load_backbone, load_policy, load_scorer
from oxrl_core.models.logprobs import PolicyModel, unpack
from oxrl_core.models.lora import add_lora, bound_modules, merged_state_dict
from oxrl_core.models.multimodal import freeze_towers, is_multimodal, names_in_files
from oxrl_core.models.teacher import Teacher, load_teacher
from oxrl_core.types import Distributions, TokenBatch

if TYPE_CHECKING:
    from oxrl_core.config.schema import Config, TrainConfig

# What a model is read for: log-probs, log-probs and values of states, values alone (a critic), or a score of each row.
Head = Literal["tokens", "tokens+value", "value", "score"]


class PolicyEngine:
    """The policy (or critic, or reward model) on one training rank. Every rank calls every method in the same order.

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
        head: Head = "tokens",
        with_reference: bool | None = None,
        teacher_folder: Path | None = None,
        lr: float | None = None,
    ) -> None:
        """`with_reference` none: as kl_coef and the loss ask; with LoRA the reference is the base and costs nothing.

        `lr` none: train.lr is the peak. A value head goes on from value_head.safetensors where the folder has one.
        """
        self.config = config
        self.model_folder = model_folder
        self.rank = rank
        self.world_size = world_size
        self.total_steps = total_steps
        self.head: Head = head
        self.train_config = config.train if lr is None else config.train.model_copy(update={"lr": lr})
        self.num_steps = 0  # optimizer steps taken
        self.running: dict[str, float] = {}  # what a stateful loss remembers; saved with the rest
        self.device = join_ranks(rank, world_size, config.run.call_timeout_seconds)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.precision = resolve_precision(config, on_gpu=self.device.type == "cuda")
        self.dtype = torch.bfloat16 if self.precision == "bfloat16" else torch.float32
        self.zero_stage = resolve_zero_stage(config, self.precision)
        check_offloading(config, self.zero_stage, self.device)

        self.policy = self._load_trained()
        self.value_head: ScalarHead | None = getattr(self.policy, "value_head", None)
        self.head_difference = self.policy.check_head() if isinstance(self.policy, PolicyModel) else 0.0
        self.policy.train()
        self.num_parameters = sum(parameter.numel() for parameter in self.policy.parameters())
        self.num_trained = sum(parameter.numel() for parameter in self.policy.parameters() if parameter.requires_grad)
        self.reference: WholeReference | AdapterReference | None = None
        wants_reference = self._wants_reference(with_reference)
        if isinstance(self.policy, PolicyModel) and isinstance(self.policy.model, peft.PeftModel):
            self.reference = AdapterReference(self.policy.model, can_refresh=wants_reference)
        elif wants_reference:
            self.reference = WholeReference(self._load_reference)
        self.teacher: Teacher | None = None
        if teacher_folder is not None:
            self.teacher = load_teacher(teacher_folder, model_folder, self._tokens(), config.model, self.dtype)
            self.teacher.model.to(self.device)
        self.engine = self._wrap()
        self.watch = UpdateWatch(self) if config.tripwires.enabled else None

    # ---- the signals -------------------------------------------------------------------------------------------------

    def logprobs(
        self, batch: TokenBatch, temperature: float, with_entropy: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Log-probs (B, T) of the completion tokens at `temperature`, with gradient, and entropies; elsewhere 0."""
        self._tokens()
        return self.engine(**self._inputs(batch), temperature=temperature, with_entropy=with_entropy)

    def logprobs_and_values(
        self, batch: TokenBatch, temperature: float, with_entropy: bool = False
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Log-probs and entropies as `logprobs` gives them and values as `values` does, from one forward pass."""
        self._tokens()
        self._require_value_head()
        inputs = self._inputs(batch)
        return self.engine(**inputs, temperature=temperature, with_entropy=with_entropy, with_values=True)

    def values(self, batch: TokenBatch) -> Tensor:
        """Values (B, T) float32, with gradient: column t is the value of the state before token t; elsewhere 0.

        The padding column after a row's last token, where there is one, holds the value of the state after it.
        """
        self._require_value_head()
        rows = self._rows(batch)
        if isinstance(self.policy, ValueModel):
            return self.engine(**rows)
        # Log-probs of no token: 0, but every parameter is reached by backward (PolicyModel.forward says why).
        nothing = torch.zeros_like(rows["attention_mask"])
        logprobs, _, values = self.engine(**rows, wanted=nothing, with_values=True)
        return values + logprobs

    def scores(self, batch: TokenBatch) -> Tensor:
        """Scores (B,) float32 of each row's last attended token, with gradient."""
        if not isinstance(self.policy, ScoreModel):
            raise ConfigError("this model has no score head", f"head: {self.head}", "build it with head 'score'")
        return self.engine(**self._rows(batch))

    def distill(self, batch: TokenBatch, loss: Callable[[Distributions], Tensor]) -> Tensor:
        """(B, T) of what `loss` says at each completion token about student and teacher, with gradient; elsewhere 0.

        `loss` sees the tokens in chunks, whose logits are not kept but computed again in backward.
        """
        if self.teacher is None:
            raise ConfigError("no teacher was loaded", "algorithm.teacher", "name the model to learn from")
        distillation = self.teacher.distillation(self._rows(batch), loss)
        return self.engine(**self._inputs(batch), distillation=distillation)[0]

    @torch.no_grad()
    def reference_logprobs(self, batch: TokenBatch, temperature: float) -> Tensor:
        """Log-probs (B, T) of the completion tokens under the reference: the initial policy, or the refreshed one."""
        if isinstance(self.reference, WholeReference):
            return self.reference.model(**self._inputs(batch), temperature=temperature)[0]
        if self.reference is None:
            raise ConfigError("no reference policy was loaded", "algorithm.kl_coef", "set kl_coef above 0")
        with self.no_grad(), self.reference.in_place():
            return self.logprobs(batch, temperature)[0]

    def refresh_reference(self) -> None:
        """Makes the reference the present policy."""
        if isinstance(self.reference, WholeReference):
            self.reference.refresh(self._tokens(), self.gather)
        elif self.reference is not None:
            self.reference.refresh(self.gather, self.gather_to_write)
        else:
            raise ConfigError("there is no reference to refresh", "algorithm.reference", "build it with a reference")

    def drop_reference(self) -> None:
        """Frees the reference; there is none afterwards."""
        self.reference = None

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
        if not isinstance(self.policy, PolicyModel) or not self.policy.can_pack():
            return False
        rows, source = unpack(batch)
        with self.no_grad():
            pairs = [(self.logprobs(batch, 1.0)[0], self.logprobs(rows, 1.0)[0])]
            if self.teacher is not None:  # another architecture, maybe
                teacher = self.teacher.model
                pairs.append((teacher(**self._inputs(batch))[0], teacher(**self._inputs(rows))[0]))
        trained = rows.completion_mask.to(self.device)
        if not trained.any():
            return True
        places = source.to(self.device).clamp(min=0)
        for packed, alone in pairs:
            difference = (packed.flatten()[places] - alone)[trained].abs()
            # Rounding of bfloat16 is 0.02 in the mean; a leak between examples is ten times that.
            gap, limit = (difference.max(), 1e-4) if self.precision == "float32" else (difference.mean(), 0.02)
            if not float(gap) <= limit:
                return False
        return True

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
        rate = learning_rate(self.num_steps, self.train_config, self.total_steps)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        first_bad = self.watch.before_step() if self.watch is not None else None
        plain = plain_gradient_norm(self)  # without ZeRO, DeepSpeed clips but does not say the norm
        require_finite(self, plain or 0.0, first_bad)
        self.engine.step()
        norm = plain if plain is not None else float(self.engine.get_global_grad_norm())
        require_finite(self, norm)
        watched = self.watch.after_step() if self.watch is not None else {}
        self.num_steps += 1
        return {"lr": rate, "grad_norm": norm, **watched}

    # ---- weights in and out ------------------------------------------------------------------------------------------

    def export_weights(self) -> dict[str, Tensor] | None:
        """CPU copies of the weights under the names of the model's files, adapters merged; None but on rank 0."""
        return self._as_in_files(merged_state_dict(self.policy.model, self.gather, keep=self.rank == 0))

    def export_reference(self) -> dict[str, Tensor] | None:
        """As export_weights, of the reference."""
        if self.reference is None:
            raise ConfigError("there is no reference to export", "algorithm.reference", "build it with a reference")
        return self._as_in_files(self.reference.weights(self.gather, keep=self.rank == 0))

    def _as_in_files(self, weights: dict[str, Tensor]) -> dict[str, Tensor] | None:
        return names_in_files(self.policy.base, weights) if self.rank == 0 else None

    def export_model(self, folder: Path, card: str = "") -> None:
        """Writes a folder that transformers and vLLM load: merged weights and tokenizer; the adapter in adapter/.

        A value head stands beside them; a critic is a backbone with its value head; a reward model is a sequence
        classifier with one label. What was written is loaded again and compared. `card` becomes its README.md.
        """
        export_model(self, folder, card)

    def save(self, folder: Path) -> None:
        """Writes this rank's share of all that a bit-exact resume needs: safetensors and JSON, no pickle."""
        self.snapshot(copy=False).write(folder)

    def snapshot(self, *, copy: bool = True) -> Snapshot:
        """The same in host memory, to be written later; every rank must call it."""
        return take_snapshot(self, copy=copy)

    def load(self, folder: Path) -> None:
        """Goes on exactly where save() was called; same ranks, same ZeRO stage, same model."""
        load_state(self, folder)

    def describe(self) -> dict[str, Any]:
        """What this rank holds, for logs and the run directory."""
        return {
            "architecture": type(self.policy.base).__name__,
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

    def _rows(self, batch: TokenBatch) -> dict[str, Tensor]:
        names = ("input_ids", "attention_mask", "position_ids", "segment_ids")
        rows = {name: getattr(batch, name).to(self.device) for name in names}
        if batch.media_inputs is not None:
            rows["media_inputs"] = {name: value.to(self.device) for name, value in batch.media_inputs.items()}
        return rows

    def _inputs(self, batch: TokenBatch) -> dict[str, Tensor]:
        return {**self._rows(batch), "wanted": batch.completion_mask.to(self.device)}

    def _tokens(self) -> PolicyModel:
        """The policy, which must be one that gives log-probs."""
        if not isinstance(self.policy, PolicyModel):
            raise ConfigError("this model has no output head", f"head: {self.head}", "build it with head 'tokens'")
        return self.policy

    def _require_value_head(self) -> None:
        if self.value_head is None:
            raise ConfigError("this model has no value head", f"head: {self.head}", "build it with head 'tokens+value'")

    def _load_trained(self) -> PolicyModel | ValueModel | ScoreModel:
        """The model that is trained, with its adapters and heads, not yet sharded."""
        config, folder = self.config, self.model_folder
        model: nn.Module
        if self.head == "score":
            model = load_scorer(folder, config.model, self.dtype, config.run.seed)
        else:
            model = (load_backbone if self.head == "value" else load_policy)(folder, config.model, self.dtype)
        silence_dropout(model)
        if is_multimodal(model.config):
            check_sharding_of_towers(self.zero_stage, self.world_size)
            if not config.model.train_towers:
                freeze_towers(model)
        size = int(model.config.get_text_config().hidden_size)
        if config.model.lora.enabled:
            adapts_towers = config.model.train_towers
            model = add_lora(model, config.model.lora, config.run.seed, adapts_towers=adapts_towers)
        if self.head == "score":
            return ScoreModel(model)
        if self.head == "tokens":
            return PolicyModel(model)
        value_head = make_value_head(size, config.run.seed, self.dtype)
        load_value_head(value_head, folder)
        return ValueModel(model, value_head) if self.head == "value" else PolicyModel(model, value_head=value_head)

    def _wants_reference(self, asked: bool | None) -> bool:
        if not isinstance(self.policy, PolicyModel):
            if asked:
                raise ConfigError("a critic or reward model has no reference", f"head: {self.head}", "ask for none")
            return False
        if asked is not None:
            return asked
        algorithm = self.config.algorithm
        is_synced = algorithm.reference == "synced"  # asked for by name: what the sampler holds between its syncs
        return is_synced or algorithm.kl_coef > 0 or get_algorithm(algorithm.name).signals in REFERENCED_SIGNALS

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

        if self.zero_stage == 3 and isinstance(self.policy, PolicyModel):
            set_z3_leaf_modules(self.policy, [ChunkedHead])
        # The module is cast to bfloat16 as a whole; position tables must stay float32 or far positions blur.
        tables = {name: buffer for name, buffer in self.policy.named_buffers() if buffer.is_floating_point()}
        engine, *_ = deepspeed.initialize(
            model=self.policy,
            optimizer=make_optimizer(self.policy, self.train_config),
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

    def gather(self, parameters: Sequence[nn.Parameter]) -> AbstractContextManager[object]:
        """Within it these parameters are whole on every rank, to be read."""
        return self._gathered(parameters, None)

    def gather_to_write(self, parameters: Sequence[nn.Parameter]) -> AbstractContextManager[object]:
        """Within it these parameters are whole on every rank; what rank 0 writes into them stays."""
        return self._gathered(parameters, 0)

    def _gathered(self, parameters: Sequence[nn.Parameter], writer: int | None) -> AbstractContextManager[object]:
        if self.zero_stage < 3:
            return contextlib.nullcontext()
        import deepspeed

        return deepspeed.zero.GatheredParameters(list(parameters), modifier_rank=writer)


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


def check_sharding_of_towers(zero_stage: int, world_size: int) -> None:
    """Raises where a rank whose rows have no media would leave the others waiting for its part of the tower."""
    if zero_stage == 3 and world_size > 1:
        raise ConfigError(
            "ZeRO 3 over several ranks gathers a tower only where all of them look at pictures at once",
            "deepspeed.zero_stage",
            "set it to 2",
        )


def check_offloading(config: Config, zero_stage: int, device: torch.device) -> None:
    """Raises where something is to be offloaded that is not sharded, or from a device that has no other memory."""
    settings = config.deepspeed
    for wanted, key, needed_stage in (
        (settings.offload_optimizer, "offload_optimizer", 1),
        (settings.offload_params, "offload_params", 3),
    ):
        if wanted and (device.type != "cuda" or zero_stage < needed_stage):
            raise ConfigError(f"{key} needs a GPU and ZeRO {needed_stage} or more", f"deepspeed.{key}", "turn it off")
