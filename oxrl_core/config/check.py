"""What a configuration needs, and whether it is there, before anything heavy is loaded.

Data is read with the loader of the run itself; of the model only config.json, the headers of its safetensors and its
tokenizer.json are read. Sizes are estimates and say so; what is certain to fail is an error, what may is a warning.
"""

from __future__ import annotations

import os
import socket
from importlib.util import find_spec
from pathlib import Path

from oxrl_core.config.case import Case
from oxrl_core.config.check_data import check_lengths, look_at_data
from oxrl_core.config.check_model import look_at_model, look_at_models_beside
from oxrl_core.config.check_sizes import check_disk, check_memory
from oxrl_core.config.explain import planned_steps, updates_of
from oxrl_core.config.machine import Machine, this_machine
from oxrl_core.config.requirements import Requirements
from oxrl_core.config.rules import find_contradictions
from oxrl_core.config.schema import Config
from oxrl_core.config.sinks import missing_sinks
from oxrl_core.errors import OxrlError

MAX_WORKERS_PER_CORE = 8
CONNECT_SECONDS = 3.0


def check_config(config: Config, *, home: Path, machine: Machine | None = None) -> Requirements:
    """What the configuration takes on this machine (or the given one), and every problem that shows beforehand."""
    case = Case(config, home, machine or this_machine(home))
    for contradiction in find_contradictions(case.config):
        case.error("ConfigError", contradiction.key, contradiction.reason, contradiction.fix)
    gpus = _gpus(case)
    _packages(case)
    _sinks(case)
    ports = _ports(case)
    _reward(case)
    model = look_at_model(case)
    beside = look_at_models_beside(case, model)
    data = look_at_data(case)
    check_lengths(case, model, data)
    steps = planned_steps(case.config, data.num_rows)
    _warmup(case, steps)
    memory, gpu_memory = check_memory(case, model, beside, gpus)
    disk = check_disk(case, model, beside, steps)
    case.problems.sort(key=lambda problem: problem.severity)  # stable: errors before warnings
    return Requirements(
        gpus=gpus,
        cpu_workers=case.config.train.num_workers + case.num_samplers + case.num_scorers,
        memory_gib=round(memory, 1),
        gpu_memory_gib=round(gpu_memory, 1),
        disk_gib=round(disk, 2),
        num_parameters=model.num_parameters,
        num_rows=data.num_rows,
        steps=steps,
        downloads=case.downloads,
        ports=ports,
        problems=case.problems,
    )


def _gpus(case: Case) -> int:
    """GPUs that the run uses; complains where it asks for more than there are."""
    config, there = case.config, len(case.machine.gpu_memory_gib)
    per_sampler = config.rollout.tensor_parallel
    learners, samplers = config.train.num_workers, case.num_samplers
    colocated = config.rollout.colocate and samplers > 0
    asked = learners if colocated else learners + samplers * per_sampler
    if config.run.backend == "local":
        asked = 1  # one process, one device
    if case.on_cluster:
        return asked  # the cluster is asked when the run starts: this machine's GPUs say nothing about it
    if there == 0:
        wishes = {
            "rollout.tensor_parallel": per_sampler > 1 and samplers > 0,
            "deepspeed.offload_optimizer": config.deepspeed.offload_optimizer,
            "deepspeed.offload_params": config.deepspeed.offload_params,
            "model.attention": config.model.attention == "flash_attention_2",
        }
        keys = [key for key, wish in wishes.items() if wish]
        if keys:
            case.error(
                "MachineError",
                ", ".join(keys),
                f"asks for GPUs; this machine has 0 GPUs and {case.machine.cpus} CPU cores",
                "take these settings back to train on the CPU, or name a cluster with GPUs in run.ray_address",
            )
        workers = learners + samplers + case.num_scorers
        if workers > MAX_WORKERS_PER_CORE * case.machine.cpus:
            case.error(
                "MachineError",
                "train.num_workers, rollout.num_workers",
                f"asked are {workers} workers; this machine has {case.machine.cpus} CPU cores and no GPU",
                "ask for fewer workers, or name a cluster with GPUs in run.ray_address",
            )
        elif workers > case.machine.cpus:
            case.warning(
                "slow",
                "train.num_workers, rollout.num_workers",
                f"{workers} workers share {case.machine.cpus} CPU cores (this machine has no GPU)",
                f"{case.machine.cpus} workers or fewer are faster",
            )
        return asked if keys else 0
    if asked > there:
        parts = f"{learners} for the learner" + (f", {asked - learners} for the sampler" if samplers else "")
        case.error(
            "MachineError",
            "train.num_workers, rollout.num_workers, rollout.tensor_parallel",
            f"asked are {asked} GPUs ({parts}); this machine has {there}",
            "ask for fewer workers, set rollout.colocate: true, or name a cluster in run.ray_address",
        )
    return asked


def _packages(case: Case) -> None:
    """The packages that the run's processes import; they run in this very environment."""
    config = case.config
    needed = {"torch": "train", "transformers": "train", "deepspeed": "train"}
    if config.run.backend == "ray":
        needed["ray"] = "train"
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        case.error(
            "MachineError",
            "this Python environment",
            f"{', '.join(missing)} not installed: this is the light core, which cannot train",
            'install oxrl[cpu] or oxrl[gpu], for example: uv pip install "oxrl[cpu]"',
        )
    if case.kind == "rl" and config.rollout.engine == "vllm" and find_spec("vllm") is None:
        case.error(
            "MachineError",
            "rollout.engine",
            "vLLM is not installed",
            "install oxrl[cpu] or oxrl[gpu], or set rollout.engine: auto, which takes transformers where it lacks",
        )
    if config.model.attention == "flash_attention_2" and find_spec("flash_attn") is None:
        case.error(
            "MachineError",
            "model.attention",
            "flash_attention_2 needs the package flash-attn, which is not installed",
            "set model.attention: sdpa, or install flash-attn",
        )


def _sinks(case: Case) -> None:
    """The libraries of the places that metrics go to."""
    for name in missing_sinks(case.config.report.sinks):
        case.error(
            "ConfigError",
            "report.sinks",
            f"{name} is not installed",
            "pip install 'oxrl[tracking]', or leave it out: metrics.jsonl in the run directory is always written",
        )


def _ports(case: Case) -> list[str]:
    """Addresses that the run meets others at. Its own ports are chosen free when it starts."""
    config = case.config
    used: list[str] = []
    if config.run.backend == "ray" and config.run.ray_address:
        address = config.run.ray_address.removeprefix("ray://")
        used.append(address)
        host, _, port = address.rpartition(":")
        if port.isdigit():
            try:
                socket.create_connection((host or "127.0.0.1", int(port)), timeout=CONNECT_SECONDS).close()
            except (OSError, OverflowError) as error:
                case.error(
                    "PlacementError",
                    f"run.ray_address = {config.run.ray_address}",
                    f"nothing answers there: {error}",
                    "start the cluster (ray start --head --port=6379), mend the address, or remove it",
                )
    port = os.environ.get("MASTER_PORT", "")
    if port.isdigit() and config.run.backend == "local" and "RANK" not in os.environ:
        used.append(f"127.0.0.1:{port}")
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", int(port)))
            except (OSError, OverflowError) as error:
                case.error("MachineError", f"MASTER_PORT = {port}", f"the port is taken: {error}", "unset MASTER_PORT")
    return used


def _reward(case: Case) -> None:
    """Whether the reward exists, takes its parameters, and can work here (a judge without its key cannot)."""
    if case.kind != "rl":
        return
    from oxrl_core.rewards.base import get_reward

    try:
        reward = get_reward(case.config.reward.name, case.config.reward.params)
        if reward.service is not None:
            reward.service.ready()
            reward.service.close()
    except OxrlError as error:
        case.caught(error, "reward.name")


def _warmup(case: Case, steps: int | None) -> None:
    train = case.config.train
    updates = steps and steps * updates_of(case.config)
    if updates is not None and train.warmup_steps > updates:
        case.warning(
            "warm-up",
            "train.warmup_steps",
            f"the run ends after {updates} updates, within its warm-up of "
            f"{train.warmup_steps}: the learning rate never reaches train.lr",
            "lower train.warmup_steps, unless this is a short trial",
        )
