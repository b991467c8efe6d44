"""Config -> the objects that the loops take. The only place that knows every class."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oxrl_core.algorithms.base import COMPLETION_LESSONS, get_algorithm
from oxrl_core.data.chat import RenderNotes
from oxrl_core.data.examples import row_example
from oxrl_core.data.render import RENDERERS, pair_up, render_prompt
from oxrl_core.data.spans import CHECKED_ITEMS, check_masks
from oxrl_core.data.stream import RenderedStream, RowStream, rendered
from oxrl_core.datasets.base import read_rows
from oxrl_core.errors import ConfigError, DataError, MachineError
from oxrl_core.rewards.base import Reward, get_reward
from oxrl_core.rewards.self_test import self_test
from oxrl_core.rollout.sampler import Sampler
from oxrl_core.rollout.verify import FINGERPRINT_LIMITS, GAP_LIMITS, probe_row
from oxrl_core.rollout.worker import window
from oxrl_core.train.cluster import Cluster
from oxrl_core.train.groups import WorkerGroup, start_group
from oxrl_core.train.reference_cache import ReferenceCache
from oxrl_core.train.verdicts import judge
from oxrl_core.types import Progress, Prompt, Rollout, Row

if TYPE_CHECKING:
    from oxrl_core.config.schema import Config, DatasetConfig
    from oxrl_core.data.media import MediaReader
    from oxrl_core.rollout.scorer import Scorer
    from oxrl_core.runs.rundir import RunDir
    from oxrl_core.train.learner import Learner


@dataclass
class Parts:
    """What both loops hold."""

    config: Config
    learner: Learner
    total_steps: int
    model_folder: Path
    cluster: Cluster | None
    stream: RenderedStream[Any]  # of prompts, examples, pairs or labeled rows
    eval_examples: list[Any]  # held-out examples, pairs or labeled examples; empty where rewards are what is evaluated

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

    prepare: Callable[[list[Any]], list[Any]]  # what the rows of one step become together


@dataclass
class RlParts(Parts):
    """What the RL loop takes."""

    sampler: Sampler
    eval_prompts: list[Prompt]
    reward: Reward
    probe_row: list[int]
    gap_limit: float
    fingerprint_limit: float
    recent_rewards: deque[float] = field(default_factory=lambda: deque(maxlen=10))

    def judge(self, rollouts: Sequence[Rollout]) -> None:
        """Writes a score onto each rollout, within the deadline of a step."""
        judge(self.reward, rollouts, self.config.reward.timeout_seconds)

    def is_good_enough(self) -> bool:
        """Whether the mean reward of the last 10 steps has reached `train.stop_at_reward`."""
        goal, recent = self.config.train.stop_at_reward, self.recent_rewards
        return goal is not None and len(recent) == recent.maxlen and sum(recent) / len(recent) >= goal

    def is_evaluation_due(self, step: int) -> bool:
        return super().is_evaluation_due(step) or self.is_good_enough()

    def is_sync_due(self, step: int) -> bool:
        """Every `rollout.sync_every` steps, and after the last one: the last evaluation is of the last weights."""
        return step % self.config.rollout.sync_every == 0 or step == self.total_steps or self.is_good_enough()

    def close(self) -> None:
        self.sampler.close()
        if self.reward.service is not None:
            self.reward.service.close()
        super().close()


def build_sl(config: Config, run: RunDir, progress: Progress) -> SlParts:
    """The parts of a supervised run: learner on Ray, in this process, or as one rank of torchrun."""
    cluster, model_folder, tokenizer = _foundation(config, run)
    algorithm = get_algorithm(config.algorithm.name)
    notes = RenderNotes()
    reader = _media_reader(model_folder, tokenizer)
    render = _renderer(RENDERERS[algorithm.lesson], reader, tokenizer=tokenizer, data=config.data, notes=notes)
    if algorithm.signals == "ScoredPairs":
        render = partial(render, ends_with_eos=True)
    rows, bad = _row_stream(config, progress)
    stream = RenderedStream(rows, render, notes, bad)
    if algorithm.lesson != "documents":
        first = islice(rows.epoch_rows(0), CHECKED_ITEMS)
        check_masks(rendered(first, partial(render, notes=RenderNotes())), tokenizer)
    # A document becomes several windows, a conversation several examples: they are what an epoch has.
    gives_several = algorithm.lesson == "documents" or config.data.train_on == "all"
    is_counted = gives_several and config.train.steps is None
    rows_per_epoch = stream.count_items() if is_counted else stream.rows_per_epoch
    total_steps = _total_steps(config, rows_per_epoch, config.train.rows_per_step)
    learner = _start_learner(config, run, model_folder, total_steps, cluster)
    learner.ready()
    render_again = partial(render, notes=RenderNotes())  # the rows of training alone are counted
    eval_examples = _held_out(config, render_again, bad)
    prepare: Callable[[list[Any]], list[Any]] = list
    if algorithm.lesson == "labeled":
        prepare = partial(pair_up, max_length=config.data.max_length)
        eval_examples = prepare(eval_examples)
    if config.algorithm.precompute_reference:
        cache = ReferenceCache(run.path / "reference.json")
        prepare = cache.attach
        eval_examples = cache.fill(learner, _all_items(config, render_again), eval_examples)
    return SlParts(
        config=config,
        learner=learner,
        total_steps=total_steps,
        model_folder=model_folder,
        cluster=cluster,
        stream=stream,
        eval_examples=eval_examples,
        prepare=prepare,
    )


def build_rl(config: Config, run: RunDir, progress: Progress) -> RlParts:
    """The parts of an RL run: learner and sampler start side by side, on a shared GPU one after the other."""
    if "WORLD_SIZE" in os.environ and int(os.environ["WORLD_SIZE"]) > 1:
        raise MachineError(
            "an RL run places its own workers and does not run under torchrun",
            next_step="start it once, with train.num_workers ranks on Ray (run.backend=ray)",
        )
    reward = get_reward(config.reward.name, config.reward.params)
    if reward.service is not None:
        reward.service.ready()  # an endpoint that does not answer ends the run before it has cost anything
    cluster, model_folder, tokenizer = _foundation(config, run)
    needs_completion = get_algorithm(config.algorithm.name).lesson in COMPLETION_LESSONS
    notes = RenderNotes()
    reader = _media_reader(model_folder, tokenizer)
    render = _renderer(
        render_prompt, reader, tokenizer=tokenizer, data=config.data, needs_completion=needs_completion, notes=notes
    )
    rows, bad = _row_stream(config, progress)
    _check_references(config, reward, rows)
    stream = RenderedStream(rows, render, notes, bad)
    total_steps = _total_steps(config, stream.rows_per_epoch, config.train.prompts_per_step)
    learner = _start_learner(config, run, model_folder, total_steps, cluster)
    if config.rollout.colocate:
        learner.ready()  # vLLM measures the memory that is left: it must not be shrinking meanwhile
    decode = partial(tokenizer.decode, skip_special_tokens=True)
    reads_media = reader is not None
    sampler = Sampler(_start_sampler(config, model_folder, cluster, reads_media), config, decode)
    if config.reward.name == "reward_model":
        reward = replace(reward, service=_start_scorer(config, run, cluster))
        reward.service.ready()
    precision = learner.ready()["precision"]
    sampler.ready()
    is_judged = config.reward.name != "none"
    prompts = _held_out(config, partial(render, notes=RenderNotes()), bad)
    return RlParts(
        config=config,
        learner=learner,
        total_steps=total_steps,
        model_folder=model_folder,
        cluster=cluster,
        sampler=sampler,
        stream=stream,
        eval_prompts=prompts if is_judged else [],
        eval_examples=[] if is_judged else [row_example(prompt) for prompt in prompts],
        reward=reward,
        probe_row=probe_row(
            len(tokenizer), window(config, model_folder), without=reader.placeholders if reader else ()
        ),
        gap_limit=config.rollout.logprob_gap_limit or _gap_limit(config, precision),
        fingerprint_limit=config.rollout.fingerprint_limit or FINGERPRINT_LIMITS[precision],
    )


def _check_references(config: Config, reward: Reward, rows: RowStream) -> None:
    """The first references of every source score full marks, or the run ends before a model is loaded."""
    for source in rows.rows_by_source:
        first = [source[index] for index in range(min(config.reward.self_test_rows, len(source)))]
        self_test(reward, first, config.reward.timeout_seconds)


def _gap_limit(config: Config, precision: str) -> float:
    """Within top_p or top_k the sampler's log-probs are those of another distribution: there is nothing to compare."""
    is_cut = config.rollout.top_p < 1 or config.rollout.top_k > 0
    return math.inf if is_cut else GAP_LIMITS[precision]


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


def _start_learner(
    config: Config, run: RunDir, model_folder: Path, total_steps: int, cluster: Cluster | None
) -> Learner:
    # Not at the top: torch, which they import, is loaded while Ray starts.
    from oxrl_core.train.learner import Learner
    from oxrl_core.train.learner_worker import LearnerWorker
    from oxrl_core.train.torchrun import TorchrunGroup

    teacher = _other_model(config.algorithm.teacher, run) if config.algorithm.teacher else None
    if "RANK" in os.environ and cluster is None:  # torchrun started this process as one of its ranks
        rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        worker = LearnerWorker(config, model_folder, rank, world_size, total_steps, teacher)
        return Learner(TorchrunGroup(worker, rank, world_size))
    size = config.train.num_workers
    arguments = [(config, model_folder, rank, size, total_steps, teacher) for rank in range(size)]
    return Learner(start_group(LearnerWorker, arguments, config=config, cluster=cluster, name="learner"))


def _start_scorer(config: Config, run: RunDir, cluster: Cluster | None) -> Scorer:
    """The reward model, in a worker of its own."""
    from oxrl_core.rollout.scorer import RewardModelWorker, Scorer

    params = get_reward(config.reward.name, config.reward.params).params
    folder = _other_model(params["path"], run, params["revision"])
    return Scorer(start_group(RewardModelWorker, [(config, folder)], config=config, cluster=cluster, name="scorer"))


def _other_model(path: str, run: RunDir, revision: str | None = None) -> Path:
    """The folder of a model beside the trained one: a teacher, a reward model."""
    from oxrl_core.models.load import resolve_model

    # A miniature among them must not take the place of the run's own.
    beside = run.path / "models" / path.replace("/", "-").replace(":", "-")
    return resolve_model(path, run_folder=beside, home=run.path.parent.parent, seed=0, revision=revision)


def _media_reader(model_folder: Path, tokenizer: Any) -> MediaReader | None:
    """What shows a model its pictures and sounds; None for one that reads text alone."""
    from oxrl_core.data.media import open_media

    return open_media(model_folder, tokenizer)


def _renderer(render: Callable[..., Any], reader: MediaReader | None, **options: Any) -> Callable[[Row], Any]:
    """The rendering of a row, with its pictures and sounds where it has such."""
    from oxrl_core.data.media import render_with_media

    return partial(render_with_media, render=render, reader=reader, **options)


def _start_sampler(config: Config, model_folder: Path, cluster: Cluster | None, reads_media: bool) -> WorkerGroup:
    engine = config.rollout.engine
    if engine == "auto":
        engine = "vllm" if find_spec("vllm") and not reads_media else "transformers"
    if engine == "vllm" and reads_media:
        raise ConfigError(
            "the vLLM sampler is given token ids alone, no images or sound",
            where="rollout.engine",
            next_step="set it to transformers",
        )
    if engine == "vllm":
        from oxrl_core.rollout.vllm_worker import VllmWorker as Worker
    else:
        from oxrl_core.rollout.hf_worker import TransformersWorker as Worker
    arguments = [(config, model_folder)] * config.rollout.num_workers
    return start_group(Worker, arguments, config=config, cluster=cluster, name="sampler")


def _row_stream(config: Config, progress: Progress) -> tuple[RowStream, list[DataError]]:
    """The rows in training order, and why the others are not among them."""
    sources = config.data.train
    loaded = [read_rows(source, config.run.seed, strict=config.data.strict) for source in sources]
    rows, ratios = [one.rows for one in loaded], [source.ratio for source in sources]
    bad = [error for one in loaded for error in one.bad]
    return RowStream(rows, ratios, config.run.seed, config.data.shuffle, progress), bad


def _rows(sources: Sequence[DatasetConfig], config: Config, bad: list[DataError]) -> Iterator[Row]:
    for source in sources:
        loaded = read_rows(source, config.run.seed, strict=config.data.strict)
        bad += loaded.bad
        yield from loaded.rows


def _held_out(config: Config, render: Callable[[Row], Any], bad: list[DataError]) -> list[Any]:
    """What the first held-out rows become; a document may become several windows. Bad rows join the others."""
    return rendered(islice(_rows(config.data.eval, config, bad), config.train.eval_rows), render)


def _all_items(config: Config, render: Callable[[Row], Any]) -> list[Any]:
    """What all training rows become, once each."""
    return rendered(_rows(config.data.train, config, []), render)  # bad ones are counted already


def _total_steps(config: Config, rows_per_epoch: int, rows_per_step: int) -> int:
    if config.train.steps is not None:
        return config.train.steps
    return max(1, math.ceil(config.train.epochs * rows_per_epoch / rows_per_step))
