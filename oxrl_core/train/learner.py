"""All training workers as one object: the controller talks to `Learner`, each rank is a `LearnerWorker`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from oxrl_core.errors import OxrlError
from oxrl_core.train.torchrun import TorchrunGroup
from oxrl_core.types import Credit, LabeledExample, Measurement, Metrics, PairExample, Rollout

if TYPE_CHECKING:
    from oxrl_core.runs.replay import Difference
    from oxrl_core.train.groups import WorkerGroup
    from oxrl_core.train.lessons import Lesson

T = TypeVar("T")


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

    def watched(self) -> dict[str, list[str]]:
        """Names of parameters that are `dead` or have the `largest` gradients; any rank knows those of all."""
        # Only the process that writes for the run asks.
        if isinstance(self.group, TorchrunGroup):
            return self.group.worker.watched()
        return self.group.call("watched")[0]

    def learn(self, lesson: Lesson) -> tuple[Metrics, list[list[float]]]:
        """The metrics of one step over all ranks, and of rollouts the trainer's log-probs before it, in their order."""
        if lesson.examples is not None:
            return self.train_on_examples(lesson.examples), []
        return self.train_on_rollouts(lesson.rollouts, lesson.credits)

    def measure(self, rollouts: Sequence[Rollout]) -> list[Measurement]:
        """What the trainer says about each rollout before it learns from it, in their order."""
        shares = balance(sizes_of(rollouts), self.group.size)
        results = self.group.call_each("measure", [([rollouts[i] for i in share],) for share in shares])
        return in_order(shares, results)

    def train_on_rollouts(
        self, rollouts: Sequence[Rollout], credits: Sequence[Credit]
    ) -> tuple[Metrics, list[list[float]]]:
        """The metrics of one step over all ranks, and the trainer's log-probs in the order of the rollouts."""
        shares = balance(sizes_of(rollouts), self.group.size)
        results = self.group.call_each(
            "train_on_rollouts", [([rollouts[i] for i in share], [credits[i] for i in share]) for share in shares]
        )
        return results[0][0], in_order(shares, [logprobs for _, logprobs in results])

    def train_on_examples(self, examples: Sequence[Any]) -> Metrics:
        """The metrics of one step over all ranks, on examples, pairs or labeled examples."""
        return self._each("train_on_examples", examples)[1][0]

    def evaluate(self, examples: Sequence[Any]) -> Metrics:
        """Held-out loss and other metrics over all ranks."""
        return self._each("evaluate", examples)[1][0]

    def reference_sums(self, pairs: Sequence[PairExample]) -> list[tuple[float, float]]:
        """Log-probs of chosen and rejected completions under the reference, in the order of the pairs."""
        return in_order(*self._each("reference_sums", pairs))

    def refresh_reference(self) -> None:
        """Makes the present policy the reference, on every rank."""
        self.group.call("refresh_reference")

    def drop_reference(self) -> None:
        """Frees the reference on every rank."""
        self.group.call("drop_reference")

    def _each(self, method: str, examples: Sequence[Any]) -> tuple[list[list[int]], list[Any]]:
        """The indices that each rank got, and its answer."""
        shares = balance([num_tokens_of(example) for example in examples], self.group.size)
        return shares, self.group.call_each(method, [([examples[i] for i in share],) for share in shares])

    def probe(self, token_ids: list[int]) -> list[float]:
        """The trainer's log-probs of the probe row."""
        return self.group.call("probe", token_ids)[0]

    def export_weights(self) -> Any:
        """A handle to rank 0's weights, to be handed to the sampler; they never pass through the controller."""
        return self._from_rank_0("export_weights")

    def export_reference(self) -> Any:
        """A handle to the weights of the reference, likewise."""
        return self._from_rank_0("export_reference")

    def _from_rank_0(self, method: str) -> Any:
        # Every rank must take part: sharded weights are gathered from all of them.
        handles = [self.group.submit(method, worker=rank) for rank in range(self.group.size)]
        return handles[0]

    def save(self, folder: Path, in_background: bool = False) -> None:
        """Every rank writes its share; in the background it has only copied it when this returns."""
        self.group.call("save", folder, in_background)

    def save_failure(self, wait: bool) -> OxrlError | None:
        """The first rank's reason why the save in the background failed; `wait` for the end of all of them first."""
        failures = self.group.call("save_failure", wait)
        if isinstance(self.group, TorchrunGroup):
            failures = self.group.gather(failures[0])
        return next((failure for failure in failures if failure is not None), None)

    def load(self, folder: Path) -> None:
        """Every rank reads its share."""
        self.group.call("load", folder)

    def compare_with(self, step: int, folder: Path) -> list[Difference]:
        """The weights that differ from those of a checkpoint of the step, whose state every rank has afterwards."""
        return self.group.call("compare_with", step, folder)[0]

    def export_model(self, folder: Path, card: str = "") -> None:
        """The final model, as a folder for transformers and vLLM; `card` becomes its README.md."""
        self.group.call("export_model", folder, card)

    def close(self) -> None:
        """Ends the workers."""
        self.group.close()


def num_tokens_of(example: Any) -> int:
    """All tokens of an example, a pair or a labeled example."""
    if isinstance(example, PairExample):
        return len(example.chosen.token_ids) + len(example.rejected.token_ids)
    if isinstance(example, LabeledExample):
        return len(example.example.token_ids) + len(example.mismatched.token_ids)
    return len(example.token_ids)


def sizes_of(rollouts: Sequence[Rollout]) -> list[int]:
    """Tokens of each rollout, prompt and completion."""
    return [len(rollout.prompt.token_ids) + len(rollout.token_ids) for rollout in rollouts]


def in_order(shares: Sequence[Sequence[int]], answers: Sequence[Sequence[T]]) -> list[T]:
    """The answers of all ranks in the order of the whole."""
    placed = {
        index: answer
        for share, of_rank in zip(shares, answers, strict=True)
        for index, answer in zip(share, of_rank, strict=True)
    }
    return [placed[index] for index in range(len(placed))]


def balance(lengths: Sequence[int], num_parts: int) -> list[list[int]]:
    """Indices for each rank: longest first to the lightest rank, so that ranks wait little for each other."""
    parts: list[list[int]] = [[] for _ in range(num_parts)]
    loads = [0] * num_parts
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        lightest = min(range(num_parts), key=lambda rank: (loads[rank], len(parts[rank]), rank))
        parts[lightest].append(index)
        loads[lightest] += lengths[index]
    return [sorted(part) for part in parts]
