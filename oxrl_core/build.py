"""Config -> the objects that the loops take. The only place that knows every class."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from oxrl_core.advantages import ADVANTAGES
from oxrl_core.data.render import Example, render_example, render_prompt
from oxrl_core.data.stream import RenderedStream, RowStream
from oxrl_core.datasets.base import load_rows
from oxrl_core.errors import DataError, MachineError
from oxrl_core.rewards.base import Reward, get_reward
from oxrl_core.rollout.sampler import Sampler
from oxrl_core.rollout.verify import FINGERPRINT_LIMITS, GAP_LIMITS, probe_row
from oxrl_core.rollout.worker import window
from oxrl_core.train.cluster import Cluster
from oxrl_core.train.groups import WorkerGroup, start_group
from oxrl_core.types import Progress, Prompt, Row

if TYPE_CHECKING:
    from oxrl_core.config.schema import Config, DatasetConfig
    from oxrl_core.runs.rundir import RunDir
    from oxrl_core.train.learner import Learner

T = TypeVar("T")


@dataclass
class Parts:
    """What both loops hold."""

    config: Config
    learner: Learner
    total_steps: int
    model_folder: Path
    cluster: Cluster | None
    stream: RenderedStream[Any]  # of prompts or examples

    def is_evaluation_due(self, step: int) -> bool:
        """Every `eval_every` steps, and after the last one."""
        every = self.config.train.eval_every
        return step == self.total_steps or (every > 0 and step % every == 0)

    def close(self) -> None:
        """Ends the workers, then the cluster if it is ours."""
        self.learner.close()
        if self.cluster is not None:
            self.cluster.close()


@dataclass
class SlParts(Parts):
    """What the supervised loop takes."""

    eval_examples: list[Example]


@dataclass
class RlParts(Parts):
    """What the RL loop takes."""

    sampler: Sampler
    eval_prompts: list[Prompt]
    reward: Reward
    advantage: Callable[[Sequence[float]], list[float]]
    probe_row: list[int]
    gap_limit: float
    fingerprint_limit: float
    recent_rewards: deque[float] = field(default_factory=lambda: deque(maxlen=10))

    def is_good_enough(self) -> bool:
        """Whether the mean reward of the last 10 steps has reached `train.stop_at_reward`."""
        goal, recent = self.config.train.stop_at_reward, self.recent_rewards
        return goal is not None and len(recent) == recent.maxlen and sum(recent) / len(recent) >= goal

    def is_evaluation_due(self, step: int) -> bool:
        return super().is_evaluation_due(step) or self.is_good_enough()

    def close(self) -> None:
        self.sampler.close()
        super().close()


def build_sl(config: Config, run: RunDir, progress: Progress) -> SlParts:
    """The parts of a supervised run: learner on Ray, in this process, or as one rank of torchrun."""
    cluster, model_folder, tokenizer = _foundation(config, run)
    render = partial(render_example, tokenizer=tokenizer, data=config.data)
    stream = RenderedStream(_row_stream(config, progress), render)
    total_steps = _total_steps(config, stream.rows_per_epoch, config.train.rows_per_step)
    learner = _start_learner(config, model_folder, total_steps, cluster)
    learner.ready()
    return SlParts(
        config=config,
        learner=learner,
        total_steps=total_steps,
        model_folder=model_folder,
        cluster=cluster,
        stream=stream,
        eval_examples=_held_out(config, render),
    )


def build_rl(config: Config, run: RunDir, progress: Progress) -> RlParts:
    """The parts of an RL run: learner and sampler start side by side, on a shared GPU one after the other."""
    if "WORLD_SIZE" in os.environ and int(os.environ["WORLD_SIZE"]) > 1:
        raise MachineError(
            "an RL run places its own workers and does not run under torchrun",
            next_step="start it once, with train.num_workers ranks on Ray (run.backend=ray)",
        )
    cluster, model_folder, tokenizer = _foundation(config, run)
    render = partial(render_prompt, tokenizer=tokenizer, data=config.data)
    stream = RenderedStream(_row_stream(config, progress), render)
    total_steps = _total_steps(config, stream.rows_per_epoch, config.train.prompts_per_step)
    learner = _start_learner(config, model_folder, total_steps, cluster)
    if config.rollout.colocate:
        learner.ready()  # vLLM measures the memory that is left: it must not be shrinking meanwhile
    decode = partial(tokenizer.decode, skip_special_tokens=True)
    sampler = Sampler(_start_sampler(config, model_folder, cluster), config, decode)
    precision = learner.ready()["precision"]
    sampler.ready()
    return RlParts(
        config=config,
        learner=learner,
        total_steps=total_steps,
        model_folder=model_folder,
        cluster=cluster,
        sampler=sampler,
        stream=stream,
        eval_prompts=_held_out(config, render),
        reward=get_reward(config.reward.name),
        advantage=ADVANTAGES[config.algorithm.advantage],
        probe_row=probe_row(len(tokenizer), window(config, model_folder)),
        gap_limit=config.rollout.logprob_gap_limit or GAP_LIMITS[precision],
        fingerprint_limit=config.rollout.fingerprint_limit or FINGERPRINT_LIMITS[precision],
    )


def is_first_rank() -> bool:
    """Whether this process writes for the run before there is a learner to ask: all do, but torchrun's later ranks."""
    return os.environ.get("RANK", "0") == "0"


def _foundation(config: Config, run: RunDir) -> tuple[Cluster | None, Path, Any]:
    """Cluster, model folder and tokenizer. Ray takes seconds to start: torch is loaded and the model made meanwhile."""
    start = partial(Cluster.start, config, run.path / "logs")
    cluster = None
    if config.run.backend == "ray":
        if config.run.ray_address:  # first of all: how to show a cluster its token, Ray reads when it is imported
            cluster = start()
        # Whole before the other thread imports torch: two threads that import the same package at once can see half.
        import ray  # noqa: F401  (the cluster uses it)
    with ThreadPoolExecutor(1) as pool:
        resolved = pool.submit(_model, config, run)
        if config.run.backend == "ray" and cluster is None:
            cluster = start()
        model_folder, tokenizer = resolved.result()
    if is_first_rank():
        run.write_progress("loading", 0, 0)
    return cluster, model_folder, tokenizer


def _model(config: Config, run: RunDir) -> tuple[Path, Any]:
    """The model folder and its tokenizer."""
    from oxrl_core.models.load import load_tokenizer, resolve_model

    folder = resolve_model(
        config.model.path,
        run_folder=run.path,
        home=run.path.parent.parent,
        seed=config.run.seed,
        revision=config.model.revision,
    )
    return folder, load_tokenizer(folder)


def _start_learner(config: Config, model_folder: Path, total_steps: int, cluster: Cluster | None) -> Learner:
    # Not at the top: torch, which they import, is loaded while Ray starts.
    from oxrl_core.train.learner import Learner, LearnerWorker
    from oxrl_core.train.torchrun import TorchrunGroup

    if "RANK" in os.environ and cluster is None:  # torchrun started this process as one of its ranks
        rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        worker = LearnerWorker(config, model_folder, rank, world_size, total_steps)
        return Learner(TorchrunGroup(worker, rank, world_size))
    size = config.train.num_workers
    arguments = [(config, model_folder, rank, size, total_steps) for rank in range(size)]
    return Learner(start_group(LearnerWorker, arguments, config=config, cluster=cluster, name="learner"))


def _start_sampler(config: Config, model_folder: Path, cluster: Cluster | None) -> WorkerGroup:
    engine = config.rollout.engine
    if engine == "auto":
        engine = "vllm" if find_spec("vllm") else "transformers"
    if engine == "vllm":
        from oxrl_core.rollout.vllm_worker import VllmWorker as Worker
    else:
        from oxrl_core.rollout.hf_worker import TransformersWorker as Worker
    arguments = [(config, model_folder)] * config.rollout.num_workers
    return start_group(Worker, arguments, config=config, cluster=cluster, name="sampler")


def _row_stream(config: Config, progress: Progress) -> RowStream:
    sources = config.data.train
    rows = [_rows(source, config.run.seed) for source in sources]
    return RowStream(rows, [source.ratio for source in sources], config.run.seed, config.data.shuffle, progress)


def _rows(source: DatasetConfig, seed: int) -> list[Row]:
    rows = load_rows(source, seed)
    if not rows:
        raise DataError("the dataset is empty", source.name, "check the file, the split and `limit`")
    return rows


def _held_out(config: Config, render: Callable[[Row], T | None]) -> list[T]:
    rows = [row for source in config.data.eval for row in _rows(source, config.run.seed)]
    return [item for row in rows[: config.train.eval_rows] if (item := render(row)) is not None]


def _total_steps(config: Config, rows_per_epoch: int, rows_per_step: int) -> int:
    if config.train.steps is not None:
        return config.train.steps
    return max(1, math.ceil(config.train.epochs * rows_per_epoch / rows_per_step))
