"""Estimates of memory and disk, held against what the machine has. What is certain to fail is an error."""

from __future__ import annotations

from collections.abc import Mapping

from oxrl_core.config.case import Case
from oxrl_core.config.check_model import ModelFacts
from oxrl_core.config.deepspeed import resolve_precision, resolve_zero_stage
from oxrl_core.config.idle import PAIRWISE
from oxrl_core.config.machine import GIB
from oxrl_core.config.shape import adapter_parameters

PROCESS_GIB = 1.2  # a Python process with torch, and transformers with DeepSpeed or vLLM: 0.9 to 1.4 measured
RAY_GIB = 0.8  # Ray's own daemons and the driver
BYTES_PER_ROLLOUT_TOKEN = 16  # of a recorded rollout: ids, two log-probs, mask, compressed


def check_memory(case: Case, model: ModelFacts, beside: Mapping[str, ModelFacts], gpus: int) -> tuple[float, float]:
    """Estimated host memory of all processes, and of the fullest GPU."""
    config = case.config
    workers = config.train.num_workers + case.num_samplers + case.num_scorers
    processes = PROCESS_GIB * workers if config.run.backend == "ray" else PROCESS_GIB * 1.5
    host = processes + (RAY_GIB if config.run.backend == "ray" else 0.0)
    if model.num_parameters is None:
        return host, 0.0
    learner, optimizer = _learner_bytes(case, model, beside, gpus > 0)
    scorer = 4 * (beside["reward_model"].num_parameters or 0) if "reward_model" in beside else 0  # float32 everywhere
    sampler = model.num_parameters * (4 if resolve_precision(config, on_gpu=gpus > 0) == "float32" else 2)
    if gpus == 0:
        caches = case.num_samplers * config.rollout.cpu_kv_cache_gib if config.rollout.engine != "transformers" else 0
        # The weights that are handed over exist once more, in float32, between learner and sampler.
        handover = 4 * model.num_parameters if case.num_samplers else 0
        total = config.train.num_workers * (learner + optimizer) + case.num_samplers * sampler + handover + scorer
        host += total / GIB + caches
        _compare_memory(case, host)
        return host, 0.0
    host += config.train.num_workers * optimizer / GIB if config.deepspeed.offload_optimizer else 0.0
    on_gpu = learner + (0 if config.deepspeed.offload_optimizer else optimizer)
    if not case.on_cluster and case.machine.gpu_memory_gib:
        smallest = min(case.machine.gpu_memory_gib)
        if smallest and on_gpu / GIB > smallest:
            case.error(
                "MachineError",
                "train.num_workers, deepspeed.zero_stage",
                f"a training rank needs about {on_gpu / GIB:.1f} GiB; this machine's GPUs have {smallest:.0f} GiB",
                "use more ranks with deepspeed.zero_stage: 3, model.lora.enabled, "
                "model.gradient_checkpointing, or deepspeed.offload_optimizer",
            )
    return host, on_gpu / GIB


def _learner_bytes(
    case: Case, model: ModelFacts, beside: Mapping[str, ModelFacts], on_gpu: bool
) -> tuple[float, float]:
    """Bytes of one rank: weights, gradients and activations; and optimizer state with the float32 masters."""
    config = case.config
    count, ranks = float(model.num_parameters or 0), config.train.num_workers
    precision = resolve_precision(config, on_gpu=on_gpu)
    stage = resolve_zero_stage(config, precision)
    width = 4 if precision == "float32" else 2
    share = _trained_share(case, model)
    weights = count * width / (ranks if stage == 3 else 1)
    gradients = count * share * 4 / (ranks if stage >= 2 else 1)
    # Two moments; and a master copy, which ZeRO keeps for float32 weights as well.
    optimizer = count * share * (8 + (4 if stage >= 1 else 0)) / (ranks if stage >= 1 else 1)
    held = weights
    if case.beside.critic == "separate":  # an engine of its own, with gradients and optimizer state
        held, gradients, optimizer = held + weights, 2 * gradients, 2 * optimizer
    if case.beside.reference == "model":
        held += weights
    if "teacher" in beside:
        held += (beside["teacher"].num_parameters or 0) * width  # frozen, whole on every rank
    activations = 0.0
    if model.layers and model.hidden:
        per_token = model.layers * model.hidden * width * (2 if config.model.gradient_checkpointing else 17)
        activations = per_token * min(config.train.micro_batch_tokens, _tokens_of_rank(case))
    return held + gradients + activations, optimizer


def _trained_share(case: Case, model: ModelFacts) -> float:
    """The share of the weights that is trained: all, or what the adapters on every linear layer are."""
    lora = case.config.model.lora
    if not lora.enabled:
        return 1.0
    if model.shape is not None and model.num_parameters:
        return min(1.0, adapter_parameters(model.shape, lora.rank) / model.num_parameters)
    return min(1.0, 2.0 * lora.rank / (model.hidden or 1024))  # rank x (in + out) of in x out weights each


def _tokens_of_rank(case: Case) -> int:
    """Most tokens that one rank sees in a step."""
    config = case.config
    if case.kind == "rl":
        rows = config.train.prompts_per_step * config.rollout.group_size
        longest = config.data.max_prompt_tokens + config.rollout.max_completion_tokens
    else:
        rows, longest = config.train.rows_per_step, config.data.max_length
        rows *= 2 if case.algorithm.lesson in PAIRWISE else 1  # chosen and rejected, or a row and its twin
    return max(1, rows // config.train.num_workers) * longest


def _compare_memory(case: Case, needed: float) -> None:
    if case.on_cluster:
        return
    where = "train.num_workers, rollout.num_workers, model.path"
    if needed > case.machine.memory_gib:
        case.error(
            "MachineError",
            where,
            f"needs about {needed:.1f} GiB of memory; this machine has {case.machine.memory_gib:.1f} GiB",
            "fewer workers, model.lora.enabled, a smaller train.micro_batch_tokens, or a smaller model",
        )
    elif needed > case.machine.free_memory_gib:
        case.warning(
            "memory",
            where,
            f"needs about {needed:.1f} GiB of memory; {case.machine.free_memory_gib:.1f} GiB are free now",
            "end other programs, or use fewer workers",
        )


def check_disk(case: Case, model: ModelFacts, beside: Mapping[str, ModelFacts], steps: int | None) -> float:
    """Estimated GiB below the runs' folder; complains where they are not free."""
    config = case.config
    count = float(model.num_parameters or 0)
    share = _trained_share(case, model)
    # A checkpoint: float32 masters and two moments of what is trained. One more than is kept, while it is written.
    engines = 2 if case.beside.critic == "separate" else 1
    checkpoint = engines * count * share * 12 + (4 * count * share if config.algorithm.reference == "synced" else 0)
    checkpoints = (config.train.keep_checkpoints + 1) * checkpoint
    rollouts = 0.0
    if case.kind == "rl" and config.rollout.record and steps is not None:
        tokens = min(config.data.max_prompt_tokens, 256) + config.rollout.max_completion_tokens / 2
        rollouts = steps * config.train.prompts_per_step * config.rollout.group_size * tokens * BYTES_PER_ROLLOUT_TOKEN
    downloads = model.download_bytes + sum(other.download_bytes for other in beside.values())
    needed = (checkpoints + count * 4 + rollouts + downloads) / GIB + 0.05
    if needed > case.machine.free_disk_gib:
        case.error(
            "MachineError",
            str(case.home),
            f"needs about {needed:.2f} GiB of disk; {case.machine.free_disk_gib:.2f} GiB are free",
            "free some, set OXRL_HOME to a larger disk, lower train.keep_checkpoints, or rollout.record: false",
        )
    return needed
