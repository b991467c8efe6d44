"""One training rank: it makes micro-batches of what it is given and feeds them to policy and critic."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from oxrl_core.algorithms.base import Algorithm, check_params, get_algorithm
from oxrl_core.algorithms.critic import value_loss
from oxrl_core.data.collate import collate_examples, collate_labeled, collate_pairs, collate_rollouts
from oxrl_core.data.media import open_media
from oxrl_core.data.pack import pack, token_budget
from oxrl_core.errors import OxrlError
from oxrl_core.models.load import load_tokenizer
from oxrl_core.train.background import BackgroundSave
from oxrl_core.train.memory import trainer_memory
from oxrl_core.train.objective import Objective
from oxrl_core.train.ranks import max_over_ranks
from oxrl_core.train.signals import reference_sums
from oxrl_core.train.step import evaluate_step, placeholder, train_step
from oxrl_core.types import Credit, Example, Measurement, Metrics, PairExample, Rollout

if TYPE_CHECKING:
    from oxrl_core.config.schema import Config
    from oxrl_core.engine.policy import PolicyEngine
    from oxrl_core.runs.replay import Difference

ABOUT_TRAINING = ("num_tokens", "mask/coverage")  # metrics that say nothing about held-out rows
CRITIC_FOLDER = "critic"  # of a checkpoint
LIKELIHOOD = Objective(get_algorithm("sft"))


class LearnerWorker:
    """One training rank: a policy engine, perhaps a critic beside it, and the micro-batches they are fed."""

    def __init__(
        self,
        config: Config,
        model_folder: Path,
        rank: int,
        world_size: int,
        total_steps: int,
        teacher_folder: Path | None = None,
    ) -> None:
        from oxrl_core.engine.policy import PolicyEngine  # a driver that only talks to ranks needs no DeepSpeed

        torch.manual_seed(config.run.seed)
        # Nothing here draws from these two; a library that does draws the same in every run, and after every resume.
        random.seed(config.run.seed)
        np.random.seed(config.run.seed % 2**32)
        self.config = config
        tokenizer = load_tokenizer(model_folder)
        self.pad_id = tokenizer.pad_token_id
        self.media = open_media(model_folder, tokenizer)  # None: the model reads text alone
        self.objective = make_objective(config)
        learns_from_rollouts = self.objective.algorithm.lesson == "advantages"
        updates = config.train.updates_per_step * config.train.passes_per_step if learns_from_rollouts else 1
        engine = partial(
            PolicyEngine, config, model_folder, rank=rank, world_size=world_size, total_steps=total_steps * updates
        )
        self.has_critic = learns_from_rollouts and config.algorithm.advantage == "gae"
        shares_critic = self.has_critic and config.algorithm.critic == "shared"
        head = "score" if self.objective.algorithm.signals == "ScoredPairs" else "tokens"
        self.policy = engine(head="tokens+value" if shares_critic else head, teacher_folder=teacher_folder)
        self.critic: PolicyEngine | None = None  # a model of its own
        if self.has_critic and not shares_critic:
            self.critic = engine(head="value", with_reference=False, lr=config.algorithm.critic_lr)
        self.packing = config.data.packing
        self.packing_is_checked = False
        self.background: BackgroundSave | None = None

    def ready(self) -> dict[str, Any]:
        """What this rank is: parameters (all, trained), device and precision. Answers once everything is loaded."""
        return self.policy.describe()

    def watched(self) -> dict[str, list[str]]:
        """Names of the parameters without gradient for long, and of those with the largest in the last update."""
        watch = self.policy.watch
        return {} if watch is None else {"dead": watch.dead(), "largest": watch.largest()}

    def measure(self, rollouts: list[Rollout]) -> list[Measurement]:
        """What policy, reference and critic say about each completion token, before the step's first update."""
        found: list[Measurement | None] = [None] * len(rollouts)
        groups = self._micro_batches(rollouts)
        rounds = int(max_over_ranks(self.policy, len(groups)))
        has_kl = self.config.algorithm.kl_coef > 0
        with self.policy.no_grad():
            for index in range(rounds):
                rows = groups[index] if index < len(groups) else []
                batch = self._rollout_batch([rollouts[row] for row in rows])
                old, _ = self.policy.logprobs(batch, self.objective.temperature)
                reference = self.policy.reference_logprobs(batch, self.objective.temperature) if has_kl else None
                values = self._values(batch) if self.has_critic else None
                for place, row in enumerate(rows):
                    found[row] = measurement_of(place, batch, old, reference, values)
        return [measured for measured in found if measured is not None]

    def train_on_rollouts(self, rollouts: list[Rollout], credits: list[Credit]) -> tuple[Metrics, list[list[float]]]:
        """The metrics of one RL step, and this rank's log-prob of each completion token before the update."""
        parts = self.config.train.updates_per_step
        updates = []  # per update: the rows of each micro-batch, and the micro-batches
        for start in range(parts):
            rows = list(range(start, len(rollouts), parts))
            groups = [[rows[i] for i in group] for group in self._micro_batches([rollouts[row] for row in rows])]
            batches = [
                collate_rollouts(
                    [rollouts[i] for i in group], [credits[i] for i in group], self.pad_id, media=self.media
                )
                for group in groups
            ]
            updates.append((groups, batches))
        history = []
        for _ in range(self.config.train.passes_per_step):
            for _, batches in updates:
                metrics = train_step(self.policy, self.objective, batches)
                if self.critic is not None:
                    learned = train_step(self.critic, critic_objective(self.config), batches)
                    metrics |= {f"value/{name.removeprefix('value/')}": value for name, value in learned.items()}
                history.append(metrics)
        logprobs: list[list[float]] = [[] for _ in rollouts]
        for groups, batches in updates:
            for rows, batch in zip(groups, batches, strict=True):
                for row, values, mask in zip(rows, batch.old_logprobs.cpu(), batch.completion_mask, strict=True):
                    logprobs[row] = values[mask].tolist()
        return average(history) | trainer_memory(self.policy.device), logprobs

    def train_on_examples(self, examples: list[Any]) -> Metrics:
        """The metrics of one step on this rank's examples, pairs or labeled examples."""
        metrics = train_step(self.policy, self.objective, self._batches(examples, self.objective))
        return metrics | trainer_memory(self.policy.device)

    def evaluate(self, examples: list[Any]) -> Metrics:
        """The loss and the other metrics of held-out examples, over all ranks, under names that begin with eval/."""
        # Self-play has no pair before it has drawn: the held-out completions are read by their likelihood.
        objective = self.objective if self.objective.algorithm.lesson != "self_play" else LIKELIHOOD
        measured = evaluate_step(self.policy, objective, self._batches(examples, objective))
        return {f"eval/{name}": value for name, value in measured.items() if name not in ABOUT_TRAINING}

    def reference_sums(self, pairs: list[PairExample]) -> list[tuple[float, float]]:
        """Log-probs of chosen and rejected completions under the reference: sums over their tokens."""
        sums: list[tuple[float, float]] = [(0.0, 0.0)] * len(pairs)
        groups = token_budget(pair_lengths(pairs), self.config.train.micro_batch_tokens // 2)
        rounds = int(max_over_ranks(self.policy, len(groups)))
        for index in range(rounds):
            rows = groups[index] if index < len(groups) else []
            of_rows = [pairs[row] for row in rows]
            batch = collate_pairs(of_rows, self.pad_id, self.media) if rows else placeholder([], self.objective)
            chosen, rejected = reference_sums(self.policy, batch).chunk(2)
            for place, row in enumerate(rows):
                sums[row] = (float(chosen[place]), float(rejected[place]))
        return sums

    def refresh_reference(self) -> None:
        """Makes the present policy the reference."""
        self.policy.refresh_reference()

    def drop_reference(self) -> None:
        """Frees the reference: all that it had to say is known."""
        self.policy.drop_reference()

    def _values(self, batch: Any) -> torch.Tensor:
        if self.critic is None:
            return self.policy.values(batch)
        with self.critic.no_grad():
            return self.critic.values(batch)

    def _micro_batches(self, rollouts: list[Rollout]) -> list[list[int]]:
        """Indices of the rollouts of each micro-batch."""
        lengths = [len(rollout.prompt.token_ids) + len(rollout.token_ids) for rollout in rollouts]
        return token_budget(lengths, self.config.train.micro_batch_tokens)

    def _rollout_batch(self, rollouts: list[Rollout]) -> Any:
        """The rollouts as a batch that says nothing about their worth, with a column for the state after the last."""
        if not rollouts:
            return placeholder([], self.objective)
        nothing = [Credit([0.0] * len(rollout.token_ids)) for rollout in rollouts]
        return collate_rollouts(rollouts, nothing, self.pad_id, spare_column=True, media=self.media)

    def _batches(self, examples: list[Any], objective: Objective) -> list[Any]:
        """Micro-batches within the token budget: packed where this architecture keeps examples apart, else padded."""
        budget = self.config.train.micro_batch_tokens
        if "Pairs" in objective.algorithm.signals:
            groups = token_budget(pair_lengths(examples), budget // 2)
            return [collate_pairs([examples[i] for i in group], self.pad_id, self.media) for group in groups]
        if objective.algorithm.lesson == "labeled":
            longest = [max(len(one.example.token_ids), len(one.mismatched.token_ids)) for one in examples]
            groups = token_budget(longest, budget // 2)
            return [collate_labeled([examples[i] for i in group], self.pad_id, self.media) for group in groups]
        lengths = [len(example.token_ids) for example in examples]
        if self.packing:
            packed = [
                collate_examples([examples[i] for i in row], self.pad_id, True, budget, self.media)
                for row in pack(lengths, budget)
            ]
            if not self.packing_is_checked:
                # Measured on the first batch, never guessed from the architecture's name. All ranks take part and
                # decide alike, one without rows too.
                exact = self.policy.packing_is_exact(packed[0] if packed else placeholder([], objective))
                self.packing = max_over_ranks(self.policy, float(not exact)) == 0.0
                self.packing_is_checked = True
            if self.packing:
                return packed
        return [
            collate_examples([examples[i] for i in group], self.pad_id, False, budget, self.media)
            for group in token_budget(lengths, budget)
        ]

    def probe(self, token_ids: list[int]) -> list[float]:
        """Log-probs of a fixed row at temperature 1, to be compared with the sampler's (first token: 0)."""
        example = Example(token_ids=token_ids, completion_mask=[False] + [True] * (len(token_ids) - 1))
        batch = collate_examples([example], self.pad_id, packing=False, row_tokens=len(token_ids))
        with self.policy.no_grad():
            return self.policy.logprobs(batch, 1.0)[0][0].tolist()

    def export_weights(self) -> dict[str, Any] | None:
        """The weights under their transformers names, on the CPU; rank 0 alone has them."""
        return self.policy.export_weights()

    def export_reference(self) -> dict[str, Any] | None:
        """The weights of the reference, likewise."""
        return self.policy.export_reference()

    def save(self, folder: Path, in_background: bool = False) -> None:
        """All that this rank needs to go on exactly here; in the background only its copy is waited for."""
        snapshots = [(self.policy.snapshot(copy=in_background), folder)]
        if self.critic is not None:
            snapshots.append((self.critic.snapshot(copy=in_background), folder / CRITIC_FOLDER))
        save = BackgroundSave(snapshots)
        if in_background:
            self.background = save
            save.start()
        else:
            save.write()

    def save_failure(self, wait: bool) -> OxrlError | None:
        """Why the save in the background failed; none while it is written, and after it has been."""
        return self.background.failure(wait) if self.background is not None else None

    def load(self, folder: Path) -> None:
        """Goes on where `save` left off."""
        self.policy.load(folder)
        if self.critic is not None:
            self.critic.load(folder / CRITIC_FOLDER)

    def compare_with(self, step: int, folder: Path) -> list[Difference]:
        """The weights that differ from those of a checkpoint of the step; afterwards its state is loaded. Rank 0 says.

        Adapters are compared as the weights that they make.
        """
        from oxrl_core.train.comparison import weight_differences

        mine = self.policy.export_weights()
        mine = {name: weight.clone() for name, weight in mine.items()} if mine is not None else {}
        self.load(folder)
        theirs = self.policy.export_weights() or {}
        return list(weight_differences(step, theirs, mine))

    def export_model(self, folder: Path, card: str = "") -> None:
        """A folder that transformers and vLLM load, with `card` as its README.md."""
        self.policy.export_model(folder, card)


def make_objective(config: Config) -> Objective:
    """The objective that the config section `algorithm` asks for."""
    section = config.algorithm
    algorithm = get_algorithm(section.name)
    is_rl = algorithm.lesson == "advantages"
    return Objective(
        algorithm=algorithm,
        params=check_params(algorithm, section.params),
        aggregation=section.aggregation,
        constant_length=config.rollout.max_completion_tokens,
        temperature=config.rollout.temperature if is_rl else 1.0,
        kl_coef=section.kl_coef if section.kl_place == "loss" else 0.0,
        kl_estimator=section.kl_estimator,
        entropy_coef=section.entropy_coef,
        mismatch=section.mismatch,
        mismatch_level=section.mismatch_level,
        mismatch_low=section.mismatch_low,
        mismatch_high=section.mismatch_high,
        value_coef=section.value_coef if is_rl and section.advantage == "gae" and section.critic == "shared" else 0.0,
        value_clip=section.value_clip,
    )


def critic_objective(config: Config) -> Objective:
    """The objective of a critic with a model of its own: the clipped value loss, each token alike."""
    params = {"value_clip": config.algorithm.value_clip}
    return Objective(Algorithm("value", value_loss, "rl", "Values", "advantages", params), params)


def measurement_of(
    row: int, batch: Any, old: torch.Tensor, reference: torch.Tensor | None, values: torch.Tensor | None
) -> Measurement:
    """What was measured at the completion tokens of one row of a batch, as plain numbers."""
    mask = batch.completion_mask[row].to(old.device)
    after = int(batch.attention_mask[row].sum())  # the column behind the last token
    return Measurement(
        old_logprobs=old[row][mask].tolist(),
        ref_logprobs=[] if reference is None else reference[row][mask].tolist(),
        values=[] if values is None else values[row][mask].tolist(),
        last_value=0.0 if values is None else float(values[row, after]),
    )


def pair_lengths(pairs: Sequence[PairExample]) -> list[int]:
    """The longer completion's tokens of each pair: what both rows are padded to."""
    return [max(len(pair.chosen.token_ids), len(pair.rejected.token_ids)) for pair in pairs]


def average(history: Sequence[Metrics]) -> Metrics:
    """The mean of each metric over the updates of a step; tokens are summed, the largest gap stays the largest."""
    merged: Metrics = {}
    for name in {name for metrics in history for name in metrics}:
        values = [metrics[name] for metrics in history if name in metrics]
        combine = {"num_tokens": sum, "gap/max": max}.get(name, lambda numbers: sum(numbers) / len(numbers))
        merged[name] = float(combine(values))
    return merged
