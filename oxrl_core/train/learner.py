"""All training workers as one object: the controller talks to `Learner`, each rank is a `LearnerWorker`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from oxrl_core.algorithms.base import check_params, get_algorithm
from oxrl_core.data.collate import collate_examples, collate_rollouts
from oxrl_core.data.pack import pack, token_budget
from oxrl_core.data.render import Example
from oxrl_core.models.load import load_tokenizer
from oxrl_core.train.step import Objective, max_over_ranks, placeholder, sum_over_ranks, train_step
from oxrl_core.train.torchrun import TorchrunGroup
from oxrl_core.types import Metrics, Rollout

if TYPE_CHECKING:
    from oxrl_core.config.schema import Config
    from oxrl_core.train.groups import WorkerGroup


class LearnerWorker:
    """One training rank: a policy engine and the micro-batches it is fed."""

    def __init__(self, config: Config, model_folder: Path, rank: int, world_size: int, total_steps: int) -> None:
        from oxrl_core.engine.policy import PolicyEngine  # a driver that only talks to ranks needs no DeepSpeed

        torch.manual_seed(config.run.seed)
        algorithm = get_algorithm(config.algorithm.name)
        self.config = config
        self.pad_id = load_tokenizer(model_folder).pad_token_id
        updates = config.train.updates_per_step if algorithm.kind == "rl" else 1
        self.policy = PolicyEngine(
            config, model_folder, rank=rank, world_size=world_size, total_steps=total_steps * updates
        )
        self.objective = Objective(
            algorithm=algorithm,
            params=check_params(algorithm, config.algorithm.params),
            aggregation=config.algorithm.aggregation,
            constant_length=config.rollout.max_completion_tokens,
            temperature=config.rollout.temperature if algorithm.kind == "rl" else 1.0,
            kl_coef=config.algorithm.kl_coef,
            kl_estimator=config.algorithm.kl_estimator,
            entropy_coef=config.algorithm.entropy_coef,
        )
        self.packing = config.data.packing
        self.packing_is_checked = False

    def ready(self) -> dict[str, Any]:
        """What this rank is: parameters (all, trained), device and precision. Answers once everything is loaded."""
        return self.policy.describe()

    def train_on_rollouts(self, rollouts: list[Rollout], advantages: list[float]) -> tuple[Metrics, list[list[float]]]:
        """The metrics of one RL step, and this rank's log-prob of each completion token before the update."""
        parts = self.config.train.updates_per_step
        chunks = [list(range(start, len(rollouts), parts)) for start in range(parts)]
        updates = []  # per update: the rows of each micro-batch, and the micro-batches
        for rows in chunks:
            lengths = [len(rollouts[row].prompt.token_ids) + len(rollouts[row].token_ids) for row in rows]
            groups = [[rows[i] for i in group] for group in token_budget(lengths, self.config.train.micro_batch_tokens)]
            batches = [
                collate_rollouts([rollouts[i] for i in group], [advantages[i] for i in group], self.pad_id)
                for group in groups
            ]
            updates.append((groups, batches))
        if parts > 1:
            self._remember_old_logprobs([batch for _, batches in updates for batch in batches])
        history = [train_step(self.policy, self.objective, batches) for _, batches in updates]
        logprobs: list[list[float]] = [[] for _ in rollouts]
        for groups, batches in updates:
            for rows, batch in zip(groups, batches, strict=True):
                for row, values, mask in zip(rows, batch.old_logprobs.cpu(), batch.completion_mask, strict=True):
                    logprobs[row] = values[mask].tolist()
        return average(history), logprobs

    def _remember_old_logprobs(self, batches: list[Any]) -> None:
        """Later updates of the step compare with the policy that drew the rollouts, not with the one just updated."""
        rounds = int(max_over_ranks(self.policy, len(batches)))
        with self.policy.no_grad():
            for index in range(rounds):
                batch = batches[index] if index < len(batches) else placeholder(batches, self.objective)
                batch.old_logprobs, _ = self.policy.logprobs(batch, self.objective.temperature)

    def train_on_examples(self, examples: list[Example]) -> Metrics:
        """The metrics of one supervised step on this rank's examples."""
        return train_step(self.policy, self.objective, self._batches(examples))

    def evaluate_examples(self, examples: list[Example]) -> Metrics:
        """Mean negative log-likelihood per completion token of held-out examples, over all ranks."""
        batches = self._batches(examples)
        rounds = int(max_over_ranks(self.policy, len(batches)))
        total = tokens = 0.0
        with self.policy.no_grad():
            for index in range(rounds):
                batch = batches[index] if index < len(batches) else placeholder(batches, self.objective)
                logprobs, _ = self.policy.logprobs(batch, 1.0)
                total -= float(logprobs[batch.completion_mask.to(logprobs.device)].sum())
                tokens += batch.num_tokens
        total, tokens = sum_over_ranks(self.policy, [total, tokens])
        return {"eval/loss": total / max(tokens, 1.0)}

    def _batches(self, examples: list[Example]) -> list[Any]:
        """Micro-batches within the token budget: packed where this architecture keeps examples apart, else padded."""
        budget = self.config.train.micro_batch_tokens
        lengths = [len(example.token_ids) for example in examples]
        if self.packing:
            packed = [
                collate_examples([examples[i] for i in row], self.pad_id, packing=True, row_tokens=budget)
                for row in pack(lengths, budget)
            ]
            if not self.packing_is_checked:
                # Measured on the first batch, never guessed from the architecture's name. All ranks take part and
                # decide alike, one without rows too.
                exact = self.policy.packing_is_exact(packed[0] if packed else placeholder([], self.objective))
                self.packing = max_over_ranks(self.policy, float(not exact)) == 0.0
                self.packing_is_checked = True
            if self.packing:
                return packed
        return [
            collate_examples([examples[i] for i in group], self.pad_id, packing=False, row_tokens=budget)
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

    def save(self, folder: Path) -> None:
        """All that this rank needs to go on exactly here."""
        self.policy.save(folder)

    def load(self, folder: Path) -> None:
        """Goes on where `save` left off."""
        self.policy.load(folder)

    def export_model(self, folder: Path) -> None:
        """A folder that transformers and vLLM load."""
        self.policy.export_model(folder)


class Learner:
    """All training workers as one object. Every method is one call of every rank."""

    def __init__(self, group: WorkerGroup | TorchrunGroup) -> None:
        self.group = group

    @property
    def is_coordinator(self) -> bool:
        """Whether this process writes for the run: always, but on the later ranks of torchrun."""
        return not isinstance(self.group, TorchrunGroup) or self.group.rank == 0

    def share(self, value: Any) -> Any:
        """The coordinator's value, wherever the loop runs in several processes."""
        return self.group.share(value) if isinstance(self.group, TorchrunGroup) else value

    def ready(self) -> dict[str, Any]:
        """What rank 0 is, once all ranks are."""
        return self.group.call("ready")[0]

    def train_on_rollouts(
        self, rollouts: Sequence[Rollout], advantages: Sequence[float]
    ) -> tuple[Metrics, list[list[float]]]:
        """The metrics of one step over all ranks, and the trainer's log-probs in the order of the rollouts."""
        shares = balance([len(r.prompt.token_ids) + len(r.token_ids) for r in rollouts], self.group.size)
        results = self.group.call_each(
            "train_on_rollouts", [([rollouts[i] for i in share], [advantages[i] for i in share]) for share in shares]
        )
        logprobs: list[list[float]] = [[] for _ in rollouts]
        for share, (_, of_rank) in zip(shares, results, strict=True):
            for index, values in zip(share, of_rank, strict=True):
                logprobs[index] = values
        return results[0][0], logprobs

    def train_on_examples(self, examples: Sequence[Example]) -> Metrics:
        """The metrics of one supervised step over all ranks."""
        return self._each("train_on_examples", examples)

    def evaluate_examples(self, examples: Sequence[Example]) -> Metrics:
        """Held-out loss over all ranks."""
        return self._each("evaluate_examples", examples)

    def _each(self, method: str, examples: Sequence[Example]) -> Metrics:
        shares = balance([len(example.token_ids) for example in examples], self.group.size)
        return self.group.call_each(method, [([examples[i] for i in share],) for share in shares])[0]

    def probe(self, token_ids: list[int]) -> list[float]:
        """The trainer's log-probs of the probe row."""
        return self.group.call("probe", token_ids)[0]

    def export_weights(self) -> Any:
        """A handle to rank 0's weights, to be handed to the sampler; they never pass through the controller."""
        # Every rank must take part: sharded weights are gathered from all of them.
        handles = [self.group.submit("export_weights", worker=rank) for rank in range(self.group.size)]
        return handles[0]

    def save(self, folder: Path) -> None:
        """Every rank writes its share."""
        self.group.call("save", folder)

    def load(self, folder: Path) -> None:
        """Every rank reads its share."""
        self.group.call("load", folder)

    def export_model(self, folder: Path) -> None:
        """The final model, as a folder for transformers and vLLM."""
        self.group.call("export_model", folder)

    def close(self) -> None:
        """Ends the workers."""
        self.group.close()


def balance(lengths: Sequence[int], num_parts: int) -> list[list[int]]:
    """Indices for each rank: longest first to the lightest rank, so that ranks wait little for each other."""
    parts: list[list[int]] = [[] for _ in range(num_parts)]
    loads = [0] * num_parts
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        lightest = min(range(num_parts), key=lambda rank: (loads[rank], len(parts[rank]), rank))
        parts[lightest].append(index)
        loads[lightest] += lengths[index]
    return [sorted(part) for part in parts]


def average(history: Sequence[Metrics]) -> Metrics:
    """The mean of each metric over the updates of a step; tokens are summed, the largest gap stays the largest."""
    merged: Metrics = {}
    for name in {name for metrics in history for name in metrics}:
        values = [metrics[name] for metrics in history if name in metrics]
        combine = {"num_tokens": sum, "gap/max": max}.get(name, lambda numbers: sum(numbers) / len(numbers))
        merged[name] = float(combine(values))
    return merged
