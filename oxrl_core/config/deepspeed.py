"""DeepSpeed's own JSON for our configuration. oxRL divides, accumulates and scales losses itself; DeepSpeed shards."""

from __future__ import annotations

from typing import Any, Literal

from oxrl_core.config.schema import Config

Precision = Literal["float32", "bfloat16"]

NEVER = 1_000_000_000  # steps between DeepSpeed's own prints


def resolve_precision(config: Config, *, on_gpu: bool) -> Precision:
    """The compute precision of this configuration on this device."""
    if config.model.precision != "auto":
        return config.model.precision
    return "bfloat16" if on_gpu else "float32"


def resolve_zero_stage(config: Config, precision: Precision) -> int:
    """The ZeRO stage that is used. Without ZeRO DeepSpeed keeps no float32 master of bfloat16 weights: then it is 1."""
    stage = config.deepspeed.zero_stage
    return 1 if stage == 0 and precision == "bfloat16" else stage


def deepspeed_config(
    config: Config,
    world_size: int,
    *,
    precision: Precision | None = None,
    on_gpu: bool = False,
    whole_below: int = 0,
) -> dict[str, Any]:
    """DeepSpeed's configuration for `world_size` ranks; keys that do not apply are left out, for nulls crash it.

    `whole_below`: ZeRO 3 leaves parameters of at most this many elements whole on every rank.
    """
    precision = precision or resolve_precision(config, on_gpu=on_gpu)
    settings, stage = config.deepspeed, resolve_zero_stage(config, precision)
    zero: dict[str, Any] = {
        "stage": stage,
        "reduce_bucket_size": settings.bucket_size,
        "allgather_bucket_size": settings.bucket_size,
        # Overlap needs a second stream, which only a GPU has, and gradients that are sharded.
        "overlap_comm": on_gpu and stage >= 2,
        "contiguous_gradients": True,
    }
    if stage == 3:
        zero["stage3_prefetch_bucket_size"] = settings.bucket_size
        zero["stage3_param_persistence_threshold"] = whole_below
    if settings.offload_optimizer and stage >= 1:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": on_gpu}
    if settings.offload_params and stage == 3:
        zero["offload_param"] = {"device": "cpu", "pin_memory": on_gpu}
    result: dict[str, Any] = {
        # Only DeepSpeed's own loader and counters read these three: micro-batches are oxRL's.
        "train_batch_size": world_size,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.train.max_grad_norm,
        "zero_optimization": zero,
        # torch's AdamW everywhere: DeepSpeed's own would be compiled at the start, with nvcc.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": NEVER,
    }
    if precision == "bfloat16":
        result["bf16"] = {"enabled": True}
        result["data_types"] = {"grad_accum_dtype": "fp32"}
        result["communication_data_type"] = "fp32"  # a sum over ranks in bfloat16 would round once per rank
    return result
