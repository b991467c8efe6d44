"""What becomes of each key of the seeds' dialect, as tables: moved, dropped, or refused. dialect.py acts on them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast


@dataclass(frozen=True)
class Rename:
    """A key whose meaning is the same or follows from its value alone."""

    new: str
    reason: str = "same meaning"
    convert: Callable[[Any], Any] | None = None
    drop_none: bool = True  # null meant "not set"


class Rejection(Exception):
    """A value of an old key that has no counterpart; says why."""


def _name(value: Any) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", str(value)).strip("-._")[:80]


def _precision(value: Any) -> str:
    names = {"bfloat16": "bfloat16", "bf16": "bfloat16", "float32": "float32", "fp32": "float32", "auto": "auto"}
    if str(value) not in names:
        raise Rejection("float16 would need loss scaling, which is not built; use bfloat16 or float32")
    return names[str(value)]


def _schedule(value: Any) -> str:
    names = {"warmupcosinelr": "cosine", "warmupdecaylr": "linear", "warmuplr": "constant"}
    plain = str(value).lower()
    if plain in ("cosine", "linear", "constant"):
        return plain
    if plain not in names:
        raise Rejection("the schedules are constant, linear and cosine (WarmupLR, WarmupDecayLR, WarmupCosineLR)")
    return names[plain]


def _attention(value: Any) -> str:
    plain = str(value)
    if plain not in ("sdpa", "eager", "flash_attention_2"):
        raise Rejection("model.attention is one of sdpa, eager, flash_attention_2")
    return plain


def _reward(value: Any) -> str:
    name = str(value).removesuffix("_func").removesuffix("_reward")
    return "reward_model" if name == "rm" else name


def _algorithm(value: Any) -> str:
    """Today's name: the old ones have no underscore between their words (`betadpo`)."""
    from oxrl_core.algorithms.base import all_algorithms

    names = all_algorithms()
    found = [name for name in names if without_underscores(name) == without_underscores(str(value))]
    return found[0] if len(found) == 1 and str(value) not in names else str(value)


def without_underscores(name: str) -> str:
    """The letters and digits of a name, for comparing how two dialects spell it."""
    return name.replace("_", "")


def _positive_or_reject(value: Any) -> Any:
    if not isinstance(value, int | float) or value <= 0:
        raise Rejection("every call has a deadline; give a number of seconds above 0")
    return value


def _engine(value: Any) -> str:
    names = {"vllm": "vllm", "hf": "transformers", "transformers": "transformers", "auto": "auto"}
    if str(value).lower() not in names:
        raise Rejection("rollout.engine is one of auto, vllm, transformers")
    return names[str(value).lower()]


def _zero_stage(value: Any) -> int:
    found = re.fullmatch(r"deepspeed-zero([0-3])", str(value))
    if found is None:
        raise Rejection("the strategies are deepspeed-zero0 to deepspeed-zero3")
    return int(found[1])


def _offload(value: Any) -> bool:
    device = cast("Mapping[str, Any]", value).get("device") if isinstance(value, Mapping) else value
    if device in (None, "none", False):
        return False
    if device not in ("cpu", True):
        raise Rejection(f"offloading to {device} is not built; the host's memory is (`device: cpu`)")
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
    "train.alg_name": Rename("algorithm.name", "same meaning", _algorithm),
    "train.teacher_model": Rename("algorithm.teacher"),
    "model.teacher_model": Rename("algorithm.teacher"),
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
    "reward.reward_func": Rename("reward.name", "without the ending _reward_func; rm is reward_model", _reward),
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
    "model.ref_model_offload_to_cpu": "the reference is loaded only where the algorithm needs one",
    "model.freeze_vision_encoder": "a text model has none",
    "data.num_workers": "rows are rendered ahead without worker processes",
    "reward.broadcast": "the advantage stands on every completion token",
    "reward.eps_reward_norm": "fixed at 1e-4; a group of equal rewards has advantage exactly 0",
    "lora.task_type": "every model here is a causal language model",
    "rollout.prompt_logprobs": "not needed by any step",
    "rollout.force_strict_on_policy": "always on: what is drawn from another policy needs algorithm.mismatch",
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
    "lora.bias": Refusal(("none", None), "biases are not adapted", "set it to none"),
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
    }
)

# Switches of PPO alone, which stood in `train`.
PPO_SWITCHES = {
    "train.ppo_gamma": "algorithm.discount",
    "train.ppo_tau": "algorithm.gae_lambda",
    "train.ppo_vf_clip": "algorithm.value_clip",
    "train.cliprange_value": "algorithm.value_clip",
}
# Columns of every dataset that is a file, by what the algorithm learns from; elsewhere the key is dropped.
PAIR_COLUMNS = {"data.chosen_key": "chosen_column", "data.rejected_key": "rejected_column"}
COLUMNS = {
    "examples": {"data.prompt_key": "prompt_column", "data.answer_key": "completion_column"},
    "documents": {"data.prompt_key": "text_column"},
    "pairs": {"data.prompt_key": "prompt_column"} | PAIR_COLUMNS,
    "labeled": {"data.prompt_key": "prompt_column", "data.answer_key": "completion_column"},
    "advantages": {"data.prompt_key": "prompt_column", "data.answer_key": "answer_column"},
    "kept": {"data.prompt_key": "prompt_column", "data.answer_key": "answer_column"},
    "best_and_worst": {"data.prompt_key": "prompt_column", "data.answer_key": "answer_column"},
    "self_play": {"data.prompt_key": "prompt_column", "data.chosen_key": "completion_column"},
    "mixed": {"data.prompt_key": "prompt_column", "data.answer_key": "completion_column"},
}
REWARD_MODEL_KEYS = ("train.reward_model_path", "reward.reward_model_path", "reward.reward_model")
JUDGE_KEYS = {
    "api_base": "url",
    "model": "model",
    "api_key_env": "api_key_env",
    "max_retries": "retries",
    "max_tokens": "max_answer_tokens",
    "timeout": "call_timeout_seconds",
}

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
        *PAIR_COLUMNS,
        *PPO_SWITCHES,
        *REWARD_MODEL_KEYS,
        "reward.llm_judge",
        "train.cliprange",
        "train.reward_threshold",
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
