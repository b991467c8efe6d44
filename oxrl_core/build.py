"""Config -> the objects that the loops take. The only place that knows every class."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oxrl_core.algorithms.base import COMPLETION_LESSONS, get_algorithm
from oxrl_core.config.beside import reward_model_params
from oxrl_core.config.lesson_rows import check_row
from oxrl_core.data.chat import RenderNotes, end_tokens
from oxrl_core.data.examples import row_example
from oxrl_core.data.render import RENDERERS, pair_up, prompt_tokens, render_prompt, without_empty
from oxrl_core.data.spans import CHECKED_ITEMS, SHOWN_CHARACTERS, check_masks, misplaced_mask
from oxrl_core.data.stream import RenderedStream, RowStream, rendered
from oxrl_core.datasets.base import Loaded, read_rows
from oxrl_core.errors import DataError, MachineError
from oxrl_core.rewards.base import Reward, get_reward
from oxrl_core.rewards.composite import Together
from oxrl_core.rewards.judge import Judge
from oxrl_core.rewards.self_test import rests_on, self_test
from oxrl_core.rollout.sampler import Sampler
from oxrl_core.rollout.verify import FINGERPRINT_LIMITS, GAP_LIMITS, probe_row
from oxrl_core.rollout.worker import window
from oxrl_core.train.cluster import Cluster
from oxrl_core.train.draw import Draws
from oxrl_core.train.groups import WorkerGroup, start_group
from oxrl_core.train.pipeline import Pipeline
from oxrl_core.train.recorded import RecordedSampler, records_of
from oxrl_core.train.reference_cache import ReferenceCache
from oxrl_core.train.rl import REMEMBERED_REWARDS
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

    def is_evaluation_due(self, progress: Progress) -> bool:
        """Every `eval_every` steps, and after the last one."""
        every = self.config.train.eval_every
        return progress.step == self.total_steps or (every > 0 and progress.step % every == 0)

    def save_extra(self, folder: Path) -> None:
        """Writes what a resume needs beside the ranks' shares and the progress into a checkpoint that is being made."""

    def load_extra(self, folder: Path) -> None:
        """Takes back what save_extra wrote."""

    def close(self) -> None:
        """Ends the workers, then the cluster if it is ours."""
        self.learner.close()
        if self.cluster is not None:
            self.cluster.close()


@dataclass
class SlParts(Parts):
    """What the supervised loop takes."""

    prepare: Callable[[list[Any]], list[Any]]  # what the rows of one step become together
    end_ids: frozenset[int] = frozenset()  # tokens that end a completion

    @property
    def is_watched(self) -> bool:
        """Whether anybody reads what each row is trained on: the tripwires or the recorder."""
        return self.config.tripwires.enabled or self.config.rollout.record


@dataclass
class RlParts(Parts):
    """What the RL loop takes."""

    sampler: Sampler | RecordedSampler
    draws: Draws
    eval_prompts: list[Prompt]
    reward: Reward
    judge: Callable[[Sequence[Rollout]], None]  # writes a score onto each rollout, within the deadline of a step
    probe_row: list[int]
    gap_limit: float
    fingerprint_limit: float

    def is_good_enough(self, progress: Progress) -> bool:
        """Whether the mean reward of the last 10 steps has reached `train.stop_at_reward`."""
        goal, recent = self.config.train.stop_at_reward, progress.recent_rewards
        return goal is not None and len(recent) == REMEMBERED_REWARDS and sum(recent) / len(recent) >= goal

    def is_evaluation_due(self, progress: Progress) -> bool:
        return super().is_evaluation_due(progress) or self.is_good_enough(progress)

    def is_sync_due(self, progress: Progress) -> bool:
        """Every `rollout.sync_every` steps, and after the last one: the last evaluation is of the last weights."""
        is_last = progress.step == self.total_steps or self.is_good_enough(progress)
        return is_last or progress.step % self.config.rollout.sync_every == 0

    def save_extra(self, folder: Path) -> None:
        self.draws.save(folder)

    def load_extra(self, folder: Path) -> None:
        self.draws.load(folder)

    def close(self) -> None:
        self.draws.close()
        self.sampler.close()
        if self.reward.service is not None:
            self.reward.service.close()
        super().close()


def build_sl(config: Config, run: RunDir, progress: Progress) -> SlParts:
    """The parts of a supervised run: learner on Ray, in this process, or as one rank of torchrun."""
    cluster, model_folder, tokenizer = foundation(config, run)
    algorithm = get_algorithm(config.algorithm.name)
    notes = RenderNotes()
    reader = media_reader(model_folder, tokenizer)
    render = renderer(RENDERERS[algorithm.lesson], reader, tokenizer=tokenizer, data=config.data, notes=notes)
    if algorithm.signals == "ScoredPairs":
        render = partial(render, ends_with_eos=True)
    rows, bad = _row_stream(config, progress)
    stream = RenderedStream(rows, render, notes, bad)
    if algorithm.lesson != "documents":
        first = islice(rows.epoch_rows(0), CHECKED_ITEMS)
        check_masks(rendered(first, partial(render, notes=RenderNotes())), tokenizer)
        _say_misplaced(config, run, rows, partial(render, notes=RenderNotes()), tokenizer)
    # A document becomes several windows, a conversation several examples: they are what an epoch has.
    gives_several = algorithm.lesson == "documents" or config.data.train_on == "all"
    is_counted = gives_several and config.train.steps is None
    rows_per_epoch = stream.count_items() if is_counted else stream.rows_per_epoch
    total_steps = _total_steps(config, rows_per_epoch, config.train.rows_per_step)
    learner = start_learner(config, run, model_folder, total_steps, cluster)
    learner.ready()
    render_again = partial(render, notes=RenderNotes())  # the rows of training alone are counted
    eval_examples = held_out(config, render_again, bad)
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
        end_ids=frozenset(end_tokens(tokenizer)),
    )


def _say_misplaced(config: Config, run: RunDir, rows: RowStream, render: Callable[..., Any], tokenizer: Any) -> None:
    """An alert where the mask of one of the first rows is not exactly the completion behind its prompt.

    Rows with images or sound are left out: what those become stands within the prompt.
    """
    if config.data.train_on == "all" or not is_first_rank():
        return
    first = [row for row in islice(rows.epoch_rows(0), CHECKED_ITEMS) if not row.get("media")]
    items = ((row, item) for row in first for item in rendered([row], render))
    code, text = misplaced_mask(((prompt_tokens(row, tokenizer, config.data), item) for row, item in items), tokenizer)
    if text:
        message = "the mask is not exactly the completion behind the prompt; what is trained on in [[ ]]: "
        run.append_event("error", code, message + text[:SHOWN_CHARACTERS], step=0, metric="mask/coverage")


def build_rl(config: Config, run: RunDir, progress: Progress, recorded: Path | None = None) -> RlParts:
    """The parts of an RL run: learner and sampler start side by side, on a shared GPU one after the other.

    `recorded` is the rollouts folder of a run to repeat: then nothing is drawn or judged, only looked up there.
    """
    if "WORLD_SIZE" in os.environ and int(os.environ["WORLD_SIZE"]) > 1:
        raise MachineError(
            "an RL run places its own workers and does not run under torchrun",
            next_step="start it once, with train.num_workers ranks on Ray (run.backend=ray)",
        )
    reward = get_reward(config.reward.name, config.reward.params)
    if recorded is not None:
        reward = replace(reward, service=None)
    if isinstance(reward.service, Judge | Together):
        reward.service.keep_count(run.path)
    if reward.service is not None:
        reward.service.ready()  # an endpoint that does not answer ends the run before it has cost anything
    rows, bad = _row_stream(config, progress)
    if recorded is None:
        _check_references(config, run, reward, rows)  # before Ray: a wrong answer column shows within seconds
    cluster, model_folder, tokenizer = foundation(config, run)
    needs_completion = get_algorithm(config.algorithm.name).lesson in COMPLETION_LESSONS
    notes = RenderNotes()
    reader = media_reader(model_folder, tokenizer)
    render = renderer(
        render_prompt, reader, tokenizer=tokenizer, data=config.data, needs_completion=needs_completion, notes=notes
    )
    stream = RenderedStream(rows, render, notes, bad)
    total_steps = _total_steps(config, stream.rows_per_epoch, config.train.prompts_per_step)
    learner = start_learner(config, run, model_folder, total_steps, cluster)
    if config.rollout.colocate:
        learner.ready()  # vLLM measures the memory that is left: it must not be shrinking meanwhile
    if recorded is None:
        decode = partial(tokenizer.decode, skip_special_tokens=True)
        group = start_sampler(config, model_folder, cluster, reader is not None)
        sampler = Sampler(group, config, decode, run.append_event)
        model_params = reward_model_params(config)
        if model_params is not None:
            scorer = _start_scorer(config, model_params, run, cluster)
            scorer.ready()
            if isinstance(reward.service, Together):
                reward.service.attach(scorer)
            else:
                reward = replace(reward, service=scorer)
        precision = learner.ready()["precision"]
        sampler.ready()
        judge_step = partial(judge, reward, timeout_seconds=config.reward.timeout_seconds)
    else:
        precision = learner.ready()["precision"]
        sampler = RecordedSampler(records_of(recorded), config.run.seed, learner)
        judge_step = sampler.judge
    draws = Draws()
    if config.rollout.pipeline:
        draws = Pipeline(total_steps, is_concurrent=config.run.backend == "ray" and recorded is None)
    is_judged = config.reward.name != "none"
    prompts = held_out(config, partial(render, notes=RenderNotes()), bad)
    return RlParts(
        config=config,
        learner=learner,
        total_steps=total_steps,
        model_folder=model_folder,
        cluster=cluster,
        sampler=sampler,
        draws=draws,
        stream=stream,
        eval_prompts=prompts if is_judged and recorded is None else [],  # what was evaluated was not recorded
        eval_examples=[] if is_judged else [row_example(prompt) for prompt in prompts],
        reward=reward,
        judge=judge_step,
        probe_row=probe_row(
            len(tokenizer), window(config, model_folder), without=reader.placeholders if reader else ()
        ),
        gap_limit=config.rollout.logprob_gap_limit or _gap_limit(config, precision),
        fingerprint_limit=config.rollout.fingerprint_limit or FINGERPRINT_LIMITS[precision],
    )


def _check_references(config: Config, run: RunDir, reward: Reward, rows: RowStream) -> None:
    """The first references of every source score full marks, or the run ends before Ray is started; doubts alert."""
    started = time.monotonic()
    sizes = [min(config.reward.self_test_rows, len(source)) for source in rows.rows_by_source]
    outcomes = [
        self_test(reward, [source[index] for index in range(size)], config.reward.timeout_seconds)
        for source, size in zip(rows.rows_by_source, sizes, strict=True)
    ]
    tested, skipped = sum(one.tested for one in outcomes), sum(one.skipped for one in outcomes)
    run.append_event(
        "info",
        "self_test",
        f"the reward {reward.name} gave {tested} references full marks"
        + (f"; for {skipped} rows there is none that it could be tried on" if skipped else ""),
        reward=reward.name,
        rows=tested,
        skipped=skipped,
        seconds=round(time.monotonic() - started, 3),
        rests_on=rests_on(reward),
    )
    for doubts in {one.doubts for one in outcomes if one.doubts}:
        run.append_event("warning", "verifier_rejects_references", doubts, reward=reward.name, step=0)


def _gap_limit(config: Config, precision: str) -> float:
    """Within top_p or top_k the sampler's log-probs are those of another distribution: there is nothing to compare."""
    is_cut = config.rollout.top_p < 1 or config.rollout.top_k > 0
    return math.inf if is_cut else GAP_LIMITS[precision]


def is_first_rank() -> bool:
    """Whether this process writes for the run before there is a learner to ask: all do, but torchrun's later ranks."""
    return os.environ.get("RANK", "0") == "0"


def foundation(config: Config, run: RunDir) -> tuple[Cluster | None, Path, Any]:
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
    if config.model.action_tokens:
        from oxrl_core.models.actions import code_of_rows, with_actions

        first = next(_rows(config.data.train, config, []), None)
        folder = with_actions(folder, code_of_rows(first and first["row"]), run.path / "model-with-actions")
    return folder, load_tokenizer(folder)


def start_learner(
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


def _start_scorer(config: Config, model_params: Mapping[str, Any], run: RunDir, cluster: Cluster | None) -> Scorer:
    """The reward model, alone or a part of the reward, in a worker of its own."""
    from oxrl_core.rollout.scorer import RewardModelWorker, Scorer

    params = get_reward("reward_model", model_params).params
    alone = type(config.reward).model_validate({"name": "reward_model", **model_params})
    config = config.model_copy(update={"reward": alone})
    folder = _other_model(params["path"], run, params["revision"])
    return Scorer(start_group(RewardModelWorker, [(config, folder)], config=config, cluster=cluster, name="scorer"))


def _other_model(path: str, run: RunDir, revision: str | None = None) -> Path:
    """The folder of a model beside the trained one: a teacher, a reward model."""
    from oxrl_core.models.load import resolve_model

    # A miniature among them must not take the place of the run's own.
    beside = run.path / "models" / path.replace("/", "-").replace(":", "-")
    return resolve_model(path, run_folder=beside, home=run.path.parent.parent, seed=0, revision=revision)


def media_reader(model_folder: Path, tokenizer: Any) -> MediaReader | None:
    """What shows a model its pictures and sounds; None for one that reads text alone."""
    from oxrl_core.data.media import open_media

    return open_media(model_folder, tokenizer)


def renderer(render: Callable[..., Any], reader: MediaReader | None, **options: Any) -> Callable[[Row], Any]:
    """The rendering of a row, with its pictures and sounds where it has such; None of a row that turns out empty."""
    from oxrl_core.data.media import render_with_media

    whole = partial(render_with_media, render=render, reader=reader, **options)
    return partial(
        without_empty, render=whole, strict=options["data"].strict, notes=options.get("notes") or RenderNotes()
    )


def start_sampler(config: Config, model_folder: Path, cluster: Cluster | None, reads_media: bool) -> WorkerGroup:
    engine = config.rollout.engine
    if engine == "auto":
        engine = "vllm" if find_spec("vllm") and not reads_media else "transformers"
    if engine == "vllm":
        # For a model that sees or hears only where it is asked for, and read by the installed vLLM: the worker says so.
        from oxrl_core.rollout.vllm_worker import VllmWorker as Worker
    else:
        from oxrl_core.rollout.hf_worker import TransformersWorker as Worker
    arguments = [(config, model_folder)] * config.rollout.num_workers
    return start_group(Worker, arguments, config=config, cluster=cluster, name="sampler")


def _row_stream(config: Config, progress: Progress) -> tuple[RowStream, list[DataError]]:
    """The rows in training order, and why the others are not among them."""
    sources = config.data.train
    loaded = [_loaded(source, config) for source in sources]
    rows, ratios = [one.rows for one in loaded], [source.ratio for source in sources]
    bad = [error for one in loaded for error in one.bad]
    return RowStream(rows, ratios, config.run.seed, config.data.shuffle, progress), bad


def _loaded(source: DatasetConfig, config: Config, lesson: str = "") -> Loaded:
    """The rows of a source that hold what the lesson needs; else what the algorithm learns from."""
    check = check_row(lesson or get_algorithm(config.algorithm.name).lesson, config.data.train_on)
    return read_rows(source, config.run.seed, strict=config.data.strict, check=check)


def _rows(sources: Sequence[DatasetConfig], config: Config, bad: list[DataError], lesson: str = "") -> Iterator[Row]:
    for source in sources:
        loaded = _loaded(source, config, lesson)
        bad += loaded.bad
        yield from loaded.rows


def held_out(config: Config, render: Callable[[Row], Any], bad: list[DataError], lesson: str = "") -> list[Any]:
    """What the first held-out rows become; a document may become several windows. Bad rows join the others."""
    return rendered(islice(_rows(config.data.eval, config, bad, lesson), config.train.eval_rows), render)


def _all_items(config: Config, render: Callable[[Row], Any]) -> list[Any]:
    """What all training rows become, once each."""
    return rendered(_rows(config.data.train, config, []), render)  # bad ones are counted already


def _total_steps(config: Config, rows_per_epoch: int, rows_per_step: int) -> int:
    if config.train.steps is not None:
        return config.train.steps
    return max(1, math.ceil(config.train.epochs * rows_per_epoch / rows_per_step))
