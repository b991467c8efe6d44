"""The seeds' configuration dialect, translated: the one file that knows the old names.

Every old key has exactly one rule: it is moved (RENAMES), computed together with others (`_steps`, `_batches`, `_data`,
`_workers`), dropped because nothing depends on it (DROPS), or refused because obeying it silently would be wrong
(REFUSALS). Each leaves a note "old -> new (reason)". Keys that an old file does not mention take today's defaults.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from oxrl_core.errors import ConfigError, UserError

DATA_SUFFIXES = (".parquet", ".jsonl", ".json", ".csv")


@dataclass(frozen=True)
class Rename:
    """A key whose meaning is the same or follows from its value alone."""

    new: str
    reason: str = "same meaning"
    convert: Callable[[Any], Any] | None = None
    drop_none: bool = True  # null meant "not set"


@dataclass
class Translation:
    """A mapping in today's names, a note for each translated key, and which old key each new one came from."""

    mapping: dict[str, Any] = field(default_factory=dict[str, Any])
    notes: list[str] = field(default_factory=list[str])
    sources: dict[str, str] = field(default_factory=dict[str, str])


class _Reject(Exception):
    """A value of an old key that has no counterpart; says why."""


def _name(value: Any) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", str(value)).strip("-._")[:80]


def _precision(value: Any) -> str:
    names = {"bfloat16": "bfloat16", "bf16": "bfloat16", "float32": "float32", "fp32": "float32", "auto": "auto"}
    if str(value) not in names:
        raise _Reject("float16 would need loss scaling, which is not built; use bfloat16 or float32")
    return names[str(value)]


def _schedule(value: Any) -> str:
    names = {"warmupcosinelr": "cosine", "warmupdecaylr": "linear", "warmuplr": "constant"}
    plain = str(value).lower()
    if plain in ("cosine", "linear", "constant"):
        return plain
    if plain not in names:
        raise _Reject("the schedules are constant, linear and cosine (WarmupLR, WarmupDecayLR, WarmupCosineLR)")
    return names[plain]


def _attention(value: Any) -> str:
    plain = str(value)
    if plain not in ("sdpa", "eager", "flash_attention_2"):
        raise _Reject("model.attention is one of sdpa, eager, flash_attention_2")
    return plain


def _reward(value: Any) -> str:
    return str(value).removesuffix("_func").removesuffix("_reward")


def _positive_or_reject(value: Any) -> Any:
    if not isinstance(value, int | float) or value <= 0:
        raise _Reject("every call has a deadline; give a number of seconds above 0")
    return value


def _engine(value: Any) -> str:
    names = {"vllm": "vllm", "hf": "transformers", "transformers": "transformers", "auto": "auto"}
    if str(value).lower() not in names:
        raise _Reject("rollout.engine is one of auto, vllm, transformers")
    return names[str(value).lower()]


def _zero_stage(value: Any) -> int:
    found = re.fullmatch(r"deepspeed-zero([0-3])", str(value))
    if found is None:
        raise _Reject("the strategies are deepspeed-zero0 to deepspeed-zero3")
    return int(found[1])


def _offload(value: Any) -> bool:
    device = cast("Mapping[str, Any]", value).get("device") if isinstance(value, Mapping) else value
    if device in (None, "none", False):
        return False
    if device not in ("cpu", True):
        raise _Reject(f"offloading to {device} is not built; the host's memory is (`device: cpu`)")
    return True


def _magnitude(value: Any) -> Any:
    return abs(value) if isinstance(value, int | float) else value


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


RENAMES: dict[str, Rename] = {
    "run.experiment_id": Rename("run.name", "the run id is made of it; odd characters became '-'", _name),
    "run.ray_task_timeout_sec": Rename("run.call_timeout_seconds", "same meaning", _positive_or_reject),
    "run.keep_last_n_checkpoints": Rename("train.keep_checkpoints"),
    "run.distributed_training_strategy": Rename("deepspeed.zero_stage", "the stage is all that it said", _zero_stage),
    "train.alg_name": Rename("algorithm.name"),
    "train.adam_epsilon": Rename("train.eps"),
    "train.clip_grad_norm": Rename("train.max_grad_norm"),
    "train.lr_scheduler": Rename("train.lr_schedule", "DeepSpeed's names became plain ones", _schedule),
    "train.kl_coeff": Rename("algorithm.kl_coef", "null was 0; above 0 the initial policy is loaded as the reference"),
    "train.entropy_coeff": Rename("algorithm.entropy_coef"),
    "train.clip_low": Rename("algorithm.clip_low", "a distance below 1, so its sign is dropped", _magnitude),
    "train.clip_high": Rename("algorithm.clip_high", "a distance above 1", _magnitude),
    "model.name": Rename("model.path"),
    "model.dtype": Rename("model.precision", "compute precision; master weights stay float32", _precision),
    "model.attn_impl": Rename("model.attention", "same meaning", _attention),
    "model.attn_implementation": Rename("model.attention", "same meaning", _attention),
    "reward.reward_func": Rename("reward.name", "without the ending _reward_func", _reward),
    "lora.enabled": Rename("model.lora.enabled"),
    "lora.r": Rename("model.lora.rank"),
    "lora.rank": Rename("model.lora.rank"),
    "lora.lora_rank": Rename("model.lora.rank"),
    "lora.alpha": Rename("model.lora.alpha"),
    "lora.lora_alpha": Rename("model.lora.alpha"),
    "lora.dropout": Rename("model.lora.dropout"),
    "lora.lora_dropout": Rename("model.lora.dropout"),
    "lora.target_modules": Rename("model.lora.target_modules"),
    "rollout.n_samples": Rename("rollout.group_size"),
    "rollout.max_tokens": Rename("rollout.max_completion_tokens"),
    "rollout.tensor_parallel_size": Rename("rollout.tensor_parallel"),
    "rollout.gpu_memory_utilization": Rename("rollout.memory_fraction"),
    "rollout.ignore_eos": Rename("rollout.stop_at_eos", "the opposite claim", lambda value: not value),
    "inference_engine.name": Rename("rollout.engine", "same meaning", _engine),
    "deepspeed.zero_optimization.stage": Rename("deepspeed.zero_stage"),
    "deepspeed.zero_optimization.offload_optimizer": Rename(
        "deepspeed.offload_optimizer", "device cpu or none", _offload
    ),
    "deepspeed.zero_optimization.offload_param": Rename("deepspeed.offload_params", "device cpu or none", _offload),
    "deepspeed.zero_optimization.reduce_bucket_size": Rename("deepspeed.bucket_size", "same meaning", _whole),
    "deepspeed.gradient_clipping": Rename("train.max_grad_norm"),
}

# Harmless: whatever they said, the result of a run does not depend on it, or something else decides it now.
DROPS: dict[str, str] = {
    "run.project_name": "logging only; every run has its own directory",
    "run.tracking_uri": "logging only; metrics are in metrics.jsonl of the run directory",
    "run.tracker": "logging only; metrics are in metrics.jsonl of the run directory",
    "run.method": "follows from the algorithm",
    "run.checkpoint_dir": "checkpoints live in the run directory",
    "run.ray_master_port": "a free port is chosen",
    "run.save_best_checkpoint": "the newest checkpoints are kept; evaluations are in metrics.jsonl",
    "run.max_epoch_retries": "a failed step is reported, not repeated",
    "train.val_batch_size_per_gpu": "evaluation uses train.micro_batch_tokens",
    "train.update_after_full_replay": "each rollout is trained on once; see train.updates_per_step",
    "train.dynamic_ratio_every_step": "the ratios are exact at every step",
    "model.use_cache": "decided by who uses the model: on in the sampler, off in training",
    "model.ref_model_offload_to_cpu": "the reference is loaded only where algorithm.kl_coef is above 0",
    "model.freeze_vision_encoder": "a text model has none",
    "data.num_workers": "rows are rendered ahead without worker processes",
    "data.chosen_key": "no preference pairs in this algorithm",
    "data.rejected_key": "no preference pairs in this algorithm",
    "reward.broadcast": "the advantage stands on every completion token",
    "reward.eps_reward_norm": "fixed at 1e-4; a group of equal rewards has advantage exactly 0",
    "lora.task_type": "every model here is a causal language model",
    "rollout.prompt_logprobs": "not needed by any step",
    "rollout.force_strict_on_policy": "always on: sampling is never truncated, policy versions are checked",
    "rollout.rollout_batch_size_per_gpu": "vLLM batches by itself; train.prompts_per_step is a step's prompts",
    "deepspeed.train_batch_size": "computed",
    "deepspeed.train_micro_batch_size_per_gpu": "computed; train.micro_batch_tokens bounds a forward pass",
    "deepspeed.gradient_accumulation_steps": "computed from train.micro_batch_tokens",
    "deepspeed.bf16": "follows from model.precision",
    "deepspeed.activation_checkpointing": "model.gradient_checkpointing decides",
    "deepspeed.steps_per_print": "logging only",
    "deepspeed.wall_clock_breakdown": "time/* of metrics.jsonl say it",
    "deepspeed.flops_profiler": "logging only",
    "deepspeed.monitor_config": "logging only",
}
# Whole branches of DeepSpeed's own JSON that oxRL now writes itself.
DROPPED_BRANCHES = {
    "deepspeed.zero_optimization": "written by oxRL for the stage",
    "deepspeed_ref": "the reference shares the policy's engine settings",
}


@dataclass(frozen=True)
class Refusal:
    """A key that is dropped where its value is harmless and refused everywhere else."""

    harmless: tuple[Any, ...]
    reason: str
    next_step: str


REFUSALS: dict[str, Refusal] = {
    "run.resume_from": Refusal(
        (None, ""),
        "a run resumes by itself from the newest valid checkpoint of its own directory",
        "to start from another run's weights set model.path to run:<run id>",
    ),
    "train.optimizer_name": Refusal(("adamw", "AdamW", "adam", None), "AdamW is the only optimizer", "remove the key"),
    "train.normalize_loss": Refusal(
        (True, None),
        "a plain sum of losses grows with the batch and the ranks",
        "set algorithm.aggregation to token, sequence or constant",
    ),
    "train.loss_variant": Refusal((None, ""), "a loss has one name", "set algorithm.name to the loss you mean"),
    "train.reward_model_path": Refusal(
        (None, ""), "a learned reward model is not built in", "set reward.name to your own package.module:function"
    ),
    "model.trust_remote_code": Refusal(
        (False, None),
        "it runs whatever Python the model's repository holds, with your tokens in reach",
        "use a model that transformers supports itself, and set it to false",
    ),
    "model.model_class": Refusal(
        ("llm", None, ""), "only text models are trained so far", "choose a text model and remove the key"
    ),
    "reward.composite_rewards": Refusal(
        (None, []),
        "rewards are not combined by the config",
        "combine them in a function of your own: reward.name: package.module:function",
    ),
    "reward.llm_judge": Refusal(
        (None, {}), "a judge is not built in", "call it from your own reward: reward.name: package.module:function"
    ),
    "reward.reward_model": Refusal(
        (None, {}), "a learned reward model is not built in", "set reward.name to your own package.module:function"
    ),
    "lora.bias": Refusal(("none", None), "biases are not adapted", "set it to none"),
    "rollout.top_p": Refusal(
        (1, 1.0, None), "truncated sampling biases the log-prob ratio by the mass that was cut off", "set it to 1.0"
    ),
    "rollout.top_k": Refusal(
        (-1, 0, None), "truncated sampling biases the log-prob ratio by the mass that was cut off", "set it to -1"
    ),
    "rollout.stop": Refusal(
        (None, "", []),
        "a completion ends at EOS or at max_completion_tokens",
        "remove it, or cut the text in your reward",
    ),
    "rollout.stop_token_ids": Refusal(
        (None, []), "a completion ends at EOS or at max_completion_tokens", "remove it, or cut the text in your reward"
    ),
    "deepspeed.optimizer": Refusal((None, {}), "AdamW is set by train.lr, betas, eps and weight_decay", "remove it"),
    "deepspeed.scheduler": Refusal(
        (None, {}), "the schedule is set by train.lr_schedule and warmup_steps", "remove it"
    ),
    "research.module": Refusal(
        (None, ""), "modules are not imported for their side effects", "set algorithm.name to package.module:function"
    ),
}

# Parameters of single losses, which stood in `train`: they go to the algorithm that takes them.
LOSS_PARAMETERS = frozenset(
    {
        "beta",
        "kd_alpha",
        "kd_temperature",
        "reward_threshold",
        "simpo_gamma",
        "cpo_alpha",
        "cpo_loss_type",
        "cpo_label_smoothing",
        "alphapo_alpha",
        "rdpo_alpha",
        "cdpo_label_smoothing",
        "betadpo_alpha",
        "betadpo_ema_gamma",
        "caldpo_lambda",
        "apo_mode",
        "robust_dpo_label_smoothing",
        "exo_epsilon",
        "discopop_tau",
        "odpo_delta",
        "dpop_lambda",
        "focalpo_gamma",
        "gpo_loss_type",
        "wpo_label_smoothing",
        "fdpo_divergence",
        "fdpo_alpha",
        "hdpo_alpha",
        "dposhift_lambda",
        "cposimpo_alpha",
        "drdpo_beta_prime",
        "dpnll_alpha",
        "c2dpo_lambda",
        "alpha_dpo_alpha",
        "alpha_dpo_gamma_beta_ratio",
        "alpha_dpo_ema_decay",
        "bpo_balance_factor",
        "ppo_vf_clip",
        "ppo_tau",
        "ppo_gamma",
    }
)

COMPUTED = frozenset(
    {
        "run.training_gpus",
        "run.rollout_gpus",
        "run.checkpoint_every_n_epochs",
        "train.total_number_of_epochs",
        "train.train_steps_per_epoch",
        "train.micro_batches_per_epoch",
        "train.train_batch_size_per_gpu",
        "train.gradient_accumulation_steps",
        "train.warmup_steps_ratio",
        "model.ref_model",
        "data.train_dnames",
        "data.train_ratios",
        "data.train_files_path",
        "data.val_files_path",
        "data.dataset",
        "data.max_seq_len",
        "data.prompt_key",
        "data.answer_key",
        "deepspeed.fp16",
    }
)
OLD_KEYS = (
    frozenset(RENAMES)
    | frozenset(DROPS)
    | frozenset(REFUSALS)
    | COMPUTED
    | {f"train.{name}" for name in LOSS_PARAMETERS}
)


def is_old_key(path: str) -> bool:
    """Whether this dotted key belongs to the seeds' dialect and to it alone."""
    return path in OLD_KEYS or any(path == b or path.startswith(f"{b}.") for b in DROPPED_BRANCHES)


def old_keys(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of the seeds' dialect in a nested mapping, dotted, with their values."""
    found: dict[str, Any] = {}

    def walk(value: Mapping[str, Any], prefix: str) -> None:
        for key, inner in value.items():
            path = f"{prefix}{key}"
            if path in OLD_KEYS or (path in DROPPED_BRANCHES and not isinstance(inner, Mapping)):
                found[path] = inner
            elif isinstance(inner, Mapping):
                walk(cast("Mapping[str, Any]", inner), f"{path}.")
            elif is_old_key(path):
                found[path] = inner

    walk(mapping, "")
    return found


def translate(mapping: Mapping[str, Any], *, known: Mapping[str, Any] | None = None) -> Translation:
    """The same configuration in today's names; `known` is what other layers say (the algorithm's name, steps)."""
    old = old_keys(mapping)
    result = Translation(mapping=_without(mapping, old))
    if old:
        _Translator(old, result, known or {}).run()
    return result


class _Translator:
    """One translation in progress: what is left of the old keys, and what they have become."""

    def __init__(self, old: dict[str, Any], result: Translation, known: Mapping[str, Any]) -> None:
        self.old = old
        self.result = result
        self.known = known
        self.problems: list[tuple[str, str]] = []
        self.next_steps: list[str] = []

    def run(self) -> None:
        self._renames()
        self.kind, self.parameters = self._algorithm()
        for part in (self._refusals, self._drops, self._losses, self._workers, self._steps, self._batches, self._data):
            part()
        self._lora_dropout()
        if self.problems:
            raise ConfigError(
                "\n".join(f"{key}: {problem}" for key, problem in self.problems),
                where=", ".join(key for key, _ in self.problems),
                next_step="; ".join(dict.fromkeys(self.next_steps)),
            )
        self.result.notes.append(
            "written in the seeds' dialect: what the config does not mention takes today's defaults, not the seeds'"
        )

    # --- small tools -------------------------------------------------------------------------------------------------
    def put(self, new: str, value: Any, old: str, reason: str) -> None:
        present = _get(self.result.mapping, new)
        if present is not _MISSING and present != value:
            self.refuse(old, f"{new} is already {present!r}; both say the same thing", f"keep {new}, remove {old}")
            return
        _set(self.result.mapping, new, value)
        self.result.sources[new] = old.split(" ")[0]
        self.result.notes.append(f"{old} -> {new} = {_short(value)} ({reason})")

    def drop(self, old: str, reason: str) -> None:
        self.result.notes.append(f"{old} -> dropped ({reason})")

    def refuse(self, old: str, reason: str, next_step: str) -> None:
        self.problems.append((old, reason))
        self.next_steps.append(next_step)

    def now(self, path: str) -> Any:
        """The value that stands in the translated mapping or in another layer, or None."""
        value = _get(self.result.mapping, path)
        value = _get(self.known, path) if value is _MISSING else value
        return None if value is _MISSING else value

    def whole(self, old: str, default: int) -> int:
        """A positive count out of an old key."""
        value = self.old.get(old, default)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            self.refuse(old, f"{value!r} is not a positive whole number", f"set {old} to 1 or more")
            return default
        return value

    # --- rules -------------------------------------------------------------------------------------------------------
    def _renames(self) -> None:
        for old, rule in RENAMES.items():
            if old not in self.old:
                continue
            value = self.old[old]
            if old == "run.distributed_training_strategy" and "deepspeed.zero_optimization.stage" in self.old:
                self.drop(old, "deepspeed.zero_optimization.stage says it")
                continue
            if old == "deepspeed.gradient_clipping" and "train.clip_grad_norm" in self.old:
                self.drop(old, "train.clip_grad_norm says it")
                continue
            if value is None and old in ("train.kl_coeff", "train.entropy_coeff"):
                value = 0.0
            if value is None and rule.drop_none:
                self.drop(old, "null: not set")
                continue
            try:
                self.put(rule.new, rule.convert(value) if rule.convert else value, old, rule.reason)
            except _Reject as error:
                self.refuse(old, f"{value!r}: {error}", f"change {old}")

    def _algorithm(self) -> tuple[str, frozenset[str]]:
        from oxrl_core.algorithms.base import get_algorithm

        try:
            algorithm = get_algorithm(str(self.now("algorithm.name") or "sgrpo"))
        except UserError:
            return "rl", frozenset({"clip_low", "clip_high"})  # the unknown name is reported by the loader
        return algorithm.kind, frozenset(algorithm.params)

    def _refusals(self) -> None:
        for old, rule in REFUSALS.items():
            if old not in self.old:
                continue
            value = self.old[old]
            if any(value == harmless and type(value) is type(harmless) for harmless in rule.harmless):
                self.drop(old, rule.reason)
            else:
                self.refuse(old, f"{value!r} is refused: {rule.reason}", rule.next_step)
        if "deepspeed.fp16" in self.old:
            value = self.old["deepspeed.fp16"]
            if isinstance(value, Mapping) and cast("Mapping[str, Any]", value).get("enabled"):
                self.refuse("deepspeed.fp16", "float16 would need loss scaling", "use model.precision: bfloat16")
            else:
                self.drop("deepspeed.fp16", "follows from model.precision")
        reference = self.old.get("model.ref_model", _MISSING)
        if reference is not _MISSING:
            if reference in (None, "") or reference == self.now("model.path"):
                self.drop("model.ref_model", "the reference is the initial policy, loaded where kl_coef is above 0")
            else:
                self.refuse(
                    "model.ref_model",
                    f"{reference!r}: the reference of the KL is the initial policy itself",
                    "remove model.ref_model",
                )

    def _drops(self) -> None:
        for old in self.old:
            if old in DROPS:
                self.drop(old, DROPS[old])
            elif old not in OLD_KEYS:
                branch = next(b for b in DROPPED_BRANCHES if old == b or old.startswith(f"{b}."))
                self.drop(old, DROPPED_BRANCHES[branch])

    def _losses(self) -> None:
        for name in sorted(LOSS_PARAMETERS):
            old = f"train.{name}"
            if old not in self.old:
                continue
            short = name.split("_", 1)[-1]
            taken = next((p for p in (name, short, name.removeprefix("alpha_dpo_")) if p in self.parameters), None)
            if taken is None:
                self.drop(old, f"not a parameter of {self.now('algorithm.name') or 'sgrpo'}")
            else:
                self.put(f"algorithm.{taken}", self.old[old], old, "a parameter of the loss itself")
        for clip in ("clip_low", "clip_high"):
            if f"train.{clip}" in self.old and clip not in self.parameters:
                _remove(self.result.mapping, f"algorithm.{clip}")
                self.result.notes = [note for note in self.result.notes if not note.startswith(f"train.{clip} ")]
                self.drop(f"train.{clip}", f"not a parameter of {self.now('algorithm.name') or 'sgrpo'}")

    def _workers(self) -> None:
        if "run.training_gpus" in self.old:
            if self.old["run.training_gpus"] is None:
                self.drop("run.training_gpus", "null: not set; train.num_workers is 1 unless you set it")
            else:
                self.put(
                    "train.num_workers", self.whole("run.training_gpus", 1), "run.training_gpus", "one rank per GPU"
                )
        if "run.rollout_gpus" in self.old:
            if self.old["run.rollout_gpus"] is None:
                self.drop("run.rollout_gpus", "null: not set; rollout.num_workers is 1 unless you set it")
                return
            gpus, parallel = self.whole("run.rollout_gpus", 1), self.now("rollout.tensor_parallel") or 1
            if not isinstance(parallel, int) or gpus % parallel:
                self.refuse(
                    "run.rollout_gpus",
                    f"{gpus} GPUs do not divide into workers of {parallel} GPUs",
                    "make it a multiple of rollout.tensor_parallel_size",
                )
                return
            self.put(
                "rollout.num_workers",
                gpus // parallel,
                "run.rollout_gpus",
                f"{gpus} GPUs / {parallel} per worker",
            )

    def _steps(self) -> None:
        epochs_key, rl_key, sl_key = (
            "train.total_number_of_epochs",
            "train.train_steps_per_epoch",
            "train.micro_batches_per_epoch",
        )
        accumulation = self.whole("train.gradient_accumulation_steps", 1)
        per_epoch: int | None = None
        used, unused = (rl_key, sl_key) if self.kind == "rl" else (sl_key, rl_key)
        if self.old.get(used) is not None:
            per_epoch = self.whole(used, 1)
            words = f"{per_epoch} steps per epoch"
            if used == sl_key:
                per_epoch = max(1, per_epoch // accumulation)
                words = f"{self.old[used]} micro-batches / {accumulation} accumulated = {per_epoch} steps per epoch"
            epochs = self.whole(epochs_key, 1)
            reason = f"{epochs} epochs x {words}; an epoch was a number of steps, not a pass over the data"
            if self.kind == "rl":
                reason += "; every step now draws its own rollouts, see train.updates_per_step"
            self.put("train.steps", epochs * per_epoch, f"{epochs_key} x {used}", reason)
            self.result.sources["train.steps"] = used
        elif epochs_key in self.old and self.old[epochs_key] is not None:
            self.put(
                "train.epochs",
                self.old[epochs_key],
                epochs_key,
                f"passes over the data, because {used} is not given",
            )
        if unused in self.old:
            self.drop(unused, f"not used by {'RL' if self.kind == 'rl' else 'supervised training'}")
        if used in self.old and self.old[used] is None:
            self.drop(used, "null: not set")
        self._warmup(per_epoch)
        self._saving(per_epoch)

    def _warmup(self, per_epoch: int | None) -> None:
        old = "train.warmup_steps_ratio"
        if old not in self.old:
            return
        ratio = self.old[old]
        if ratio is None:
            self.drop(old, "null: not set")
        elif isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 <= ratio <= 1:
            self.refuse(old, f"{ratio!r} is not a share between 0 and 1", "set it to a share such as 0.1")
        else:
            steps = self.now("train.steps")
            updates = self.now("train.updates_per_step") or 1
            if ratio == 0 or isinstance(steps, int):
                total = (steps or 0) * updates if self.kind == "rl" else (steps or 0)
                self.put("train.warmup_steps", round(ratio * total), old, f"{ratio} x {total} updates")
            else:
                self.drop(old, "a share of an unknown number of steps; set train.warmup_steps")

    def _saving(self, per_epoch: int | None) -> None:
        old = "run.checkpoint_every_n_epochs"
        if old not in self.old:
            return
        if per_epoch is None:
            self.drop(old, "the steps of an epoch are not given; set train.save_every")
        else:
            epochs = self.whole(old, 1)
            self.put("train.save_every", epochs * per_epoch, old, f"{epochs} epochs x {per_epoch} steps")

    def _batches(self) -> None:
        rows_key, accumulation_key = "train.train_batch_size_per_gpu", "train.gradient_accumulation_steps"
        if rows_key not in self.old and accumulation_key not in self.old:
            return
        rows, accumulation = self.whole(rows_key, 2), self.whole(accumulation_key, 1)
        ranks = self.now("train.num_workers") or 1
        if not isinstance(ranks, int):
            return  # reported by the schema
        batch = rows * accumulation * ranks
        words = f"{rows} rows x {accumulation} accumulated x {ranks} ranks"
        both = f"{rows_key} x {accumulation_key}"
        if self.kind == "rl":
            group = self.now("rollout.group_size") or 8
            prompts = max(1, math.ceil(batch / group)) if isinstance(group, int) and group > 0 else batch
            exact = "" if isinstance(group, int) and batch == prompts * group else "; rounded up to whole groups"
            self.put("train.prompts_per_step", prompts, both, f"{words} = {batch} rollouts / {group} per prompt{exact}")
        else:
            self.put("train.rows_per_step", batch, both, words)
        self.result.sources[f"train.{'prompts' if self.kind == 'rl' else 'rows'}_per_step"] = rows_key
        if rows_key in self.old:
            length = self.old.get("data.max_seq_len") or (1024 if self.kind == "rl" else 2048)
            if self.kind == "rl":
                length += self.now("rollout.max_completion_tokens") or 512
            self.put(
                "train.micro_batch_tokens",
                rows * length,
                rows_key,
                f"{rows} rows of up to {length} tokens; short rows share a forward pass",
            )

    def _data(self) -> None:
        if "data.max_seq_len" in self.old:
            new, reason = "data.max_length", "prompt and completion"
            if self.kind == "rl":
                new, reason = "data.max_prompt_tokens", "the prompt alone; completions have max_completion_tokens"
            self.put(new, self.old["data.max_seq_len"], "data.max_seq_len", reason)
        columns: dict[str, str] = {}
        for key, column in (
            ("data.prompt_key", "prompt_column"),
            ("data.answer_key", "answer_column" if self.kind == "rl" else "completion_column"),
        ):
            if self.old.get(key):
                columns[column] = str(self.old[key])
                self.result.notes.append(f"{key} -> {column} of each dataset that is a file (same meaning)")
            elif key in self.old:
                self.drop(key, "not set")
        train = self._train_sets(columns)
        if train:
            source = next(k for k in ("data.train_files_path", "data.train_dnames", "data.dataset") if self.old.get(k))
            self.put("data.train", train, source, "one entry per dataset, with its ratio and columns")
            told = any(note.startswith("data.train_dnames ") for note in self.result.notes)
            if "data.train_dnames" in self.old and not told:
                self.result.notes.append("data.train_dnames -> the entries of data.train (same meaning)")
        held_out = self.old.get("data.val_files_path")
        if held_out:
            held_out_sets = [_dataset(file, None, columns) for file in _as_list(held_out)]
            self.put("data.eval", held_out_sets, "data.val_files_path", "held-out data")
        elif "data.val_files_path" in self.old:
            self.drop("data.val_files_path", "not set")

    def _train_sets(self, columns: dict[str, str]) -> list[dict[str, Any]]:
        names = [str(name) for name in _as_list(self.old.get("data.train_dnames"))]
        files = [str(file) for file in _as_list(self.old.get("data.train_files_path"))]
        ratios: Any = self.old.get("data.train_ratios")
        if isinstance(ratios, list | tuple):
            ratios = dict(zip(names, cast("list[Any]", ratios), strict=False))
        shares = cast("dict[str, Any]", ratios) if isinstance(ratios, dict) else {}
        for name in shares:
            if name not in names:
                self.refuse(
                    "data.train_ratios", f"'{name}' is not among data.train_dnames {names}", "make the names agree"
                )
        if shares:
            self.result.notes.append("data.train_ratios -> ratio of each entry of data.train (same meaning)")
        if self.old.get("data.dataset"):
            built_in = [_dataset(str(name), None, columns) for name in _as_list(self.old["data.dataset"])]
            if not files:
                if names:
                    self.drop("data.train_dnames", "data.dataset names the data")
                return built_in
            self.drop("data.dataset", "data.train_files_path names the data")
        if not files:
            return [_dataset(name, shares.get(name), columns) for name in names]
        if len(files) == 1 and not Path(files[0]).suffix:
            folder = Path(files[0])
            found = [_file_in(folder, name) for name in names] if names else [str(folder)]
            return [_dataset(file, shares.get(name), columns) for file, name in zip(found, names or [""], strict=True)]
        if len(files) == len(names):
            return [_dataset(file, shares.get(name), columns) for file, name in zip(files, names, strict=True)]
        if names:
            self.drop(
                "data.train_dnames",
                f"{len(names)} names for {len(files)} files: give one file per dataset to mix them by ratio",
            )
        return [_dataset(file, None, columns) for file in files]

    def _lora_dropout(self) -> None:
        dropout = _get(self.result.mapping, "model.lora.dropout")
        if self.kind == "rl" and dropout not in (_MISSING, 0, 0.0) and "model.lora.dropout" in self.result.sources:
            _set(self.result.mapping, "model.lora.dropout", 0.0)
            old = self.result.sources["model.lora.dropout"]
            self.result.notes = [note for note in self.result.notes if not note.startswith(f"{old} ")]
            self.result.notes.append(
                f"{old} -> model.lora.dropout = 0.0 (was {dropout}: in RL dropout would break the log-prob ratio)"
            )


class _Missing:
    """No such key; null is a value."""


_MISSING = _Missing()


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 160 else f"{text[:157]}..."


def _as_list(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return list(cast("list[Any]", value)) if isinstance(value, list | tuple) else [value]


def _dataset(name: str, ratio: Any, columns: dict[str, str]) -> dict[str, Any]:
    is_file = Path(name).suffix in DATA_SUFFIXES or "/" in name or name.startswith("hub:")
    # Built-in datasets have their own columns.
    entry: dict[str, Any] = {"name": name} | (columns if is_file else {})
    return entry if ratio is None else entry | {"ratio": ratio}


def _file_in(folder: Path, name: str) -> str:
    candidates = [folder / f"{name}{suffix}" for suffix in DATA_SUFFIXES]
    return str(next((path for path in candidates if path.exists()), candidates[0]))


def _get(mapping: Mapping[str, Any], path: str) -> Any:
    value: Any = mapping
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return _MISSING
        value = cast("Mapping[str, Any]", value)[part]
    return value


def _set(mapping: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for part in parents:
        inner = mapping.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"'{part}' must be a section, not {inner!r}", where=path)
        mapping = cast("dict[str, Any]", inner)
    mapping[last] = value


def _remove(mapping: dict[str, Any], path: str) -> None:
    *parents, last = path.split(".")
    for part in parents:
        mapping = mapping.get(part, {})
    mapping.pop(last, None)


def _without(mapping: Mapping[str, Any], old: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A copy without the old keys and without the sections that they alone made up."""
    kept: dict[str, Any] = {}
    for key, value in mapping.items():
        path = f"{prefix}{key}"
        if path in old:
            continue
        if isinstance(value, Mapping) and value:
            inner = _without(cast("Mapping[str, Any]", value), old, f"{path}.")
            if inner or not any(known.startswith(f"{path}.") for known in old):
                kept[key] = inner
        elif not (value in (None, {}) and path in ("inference_engine", "research", "lora", "deepspeed_ref")):
            kept[key] = value
    return kept
