"""What a run asks of its machine or cluster, what there is, and the plan of who gets what. Starts nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from oxrl_core.config.beside import reward_model_params
from oxrl_core.errors import PlacementError

if TYPE_CHECKING:
    from oxrl_core.config.schema import Config

MAX_WORKERS_PER_CORE = 8


@dataclass(frozen=True)
class Resources:
    """What a machine or cluster has in all."""

    cpus: float
    gpus_by_node: tuple[float, ...] = ()

    @property
    def gpus(self) -> float:
        """GPUs of all nodes."""
        return sum(self.gpus_by_node)


@dataclass(frozen=True)
class Share:
    """What one worker takes of it."""

    num_cpus: float
    num_gpus: float = 0.0


@dataclass(frozen=True)
class Plan:
    """How the workers of a run divide what there is."""

    learner: Share
    sampler: Share
    scorer: Share  # of a reward model's worker; on the CPU where no GPU is left for it
    is_colocated: bool  # learner and sampler worker i share GPU i
    threads: int | None  # of each worker; none: as the libraries choose


def plan_placement(config: Config, resources: Resources) -> Plan:
    """What each worker gets; a PlacementError that names what is asked and what there is, where that is not enough."""
    learners = config.train.num_workers
    samplers = config.rollout.num_workers if _draws_rollouts(config) else 0
    num_workers = learners + samplers + int(_asks_a_reward_model(config))
    if resources.gpus == 0:
        return _plan_on_cpu(config, resources, num_workers)
    share = _cpu_share(resources, num_workers)
    per_sampler = config.rollout.tensor_parallel
    is_colocated = config.rollout.colocate and samplers > 0
    if is_colocated and (per_sampler > 1 or samplers != learners):
        raise PlacementError(
            f"colocated, each GPU holds one learner and one sampler worker; asked are {learners} learners and "
            f"{samplers} samplers of {per_sampler} GPU(s)",
            where="rollout.colocate",
            next_step=f"set rollout.num_workers={learners} and rollout.tensor_parallel=1, or rollout.colocate=false",
        )
    asked = learners if is_colocated else learners + samplers * per_sampler
    if asked > resources.gpus or (samplers and per_sampler > max(resources.gpus_by_node)):
        raise PlacementError(
            f"asked are {asked} GPUs ({learners} for the learner, {asked - learners} for the sampler, of which "
            f"{per_sampler} on one node); there are {resources.gpus:g} on {len(resources.gpus_by_node)} node(s)",
            where="train.num_workers, rollout.num_workers, rollout.tensor_parallel",
            next_step="ask for fewer workers, set rollout.colocate=true, or name a larger cluster in run.ray_address",
        )
    scorer = Share(share, 1.0 if asked + 1 <= resources.gpus else 0.0)
    if is_colocated:
        return Plan(Share(share, 0.5), Share(share, 0.5), scorer, is_colocated=True, threads=None)
    return Plan(Share(share, 1.0), Share(share, float(per_sampler)), scorer, is_colocated=False, threads=None)


def gpus_held(config: Config, plan: Plan | None) -> float:
    """The GPUs that the workers of a run hold together; without a plan they are this very process."""
    if plan is None:
        import torch

        return float(torch.cuda.is_available())
    samplers = config.rollout.num_workers if _draws_rollouts(config) else 0
    held = config.train.num_workers * plan.learner.num_gpus + samplers * plan.sampler.num_gpus
    return held + (plan.scorer.num_gpus if _asks_a_reward_model(config) else 0.0)


def _plan_on_cpu(config: Config, resources: Resources, num_workers: int) -> Plan:
    needs_gpu = {
        "rollout.tensor_parallel": config.rollout.tensor_parallel > 1,
        "deepspeed.offload_optimizer": config.deepspeed.offload_optimizer,
        "deepspeed.offload_params": config.deepspeed.offload_params,
        "model.attention=flash_attention_2": config.model.attention == "flash_attention_2",
    }
    keys = [key for key, asked in needs_gpu.items() if asked]
    if keys:
        raise PlacementError(
            f"{', '.join(keys)} asks for GPUs; there are 0 GPUs and {resources.cpus:g} CPU cores",
            where=keys[0],
            next_step="take these settings back to train on the CPU, or name a cluster with GPUs in run.ray_address",
        )
    if num_workers > MAX_WORKERS_PER_CORE * resources.cpus:
        raise PlacementError(
            f"asked are {num_workers} workers; there are {resources.cpus:g} CPU cores and no GPU",
            where="train.num_workers, rollout.num_workers",
            next_step=f"ask for at most {MAX_WORKERS_PER_CORE} workers a core",
        )
    share = Share(_cpu_share(resources, num_workers))
    return Plan(share, share, share, is_colocated=False, threads=max(1, int(resources.cpus // num_workers)))


def _cpu_share(resources: Resources, num_workers: int) -> float:
    """The part of a core that each worker books: a whole one, or 1/k of one where the workers outnumber the cores.

    A unit fraction leaves no gaps on any node, so whatever fits in total can be placed.
    """
    workers_per_core = math.ceil(num_workers / max(resources.cpus, 1.0))
    return math.floor(10_000 / workers_per_core) / 10_000  # Ray counts in ten-thousandths


def _asks_a_reward_model(config: Config) -> bool:
    return _draws_rollouts(config) and reward_model_params(config) is not None


def _draws_rollouts(config: Config) -> bool:
    from oxrl_core.algorithms.base import get_algorithm

    return get_algorithm(config.algorithm.name).kind == "rl"
