"""Completions that were drawn and judged before: looked up where a run would draw and judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oxrl_core.errors import DataError, NotFoundError
from oxrl_core.rollout.recorder import read_rollouts
from oxrl_core.rollout.sampler import seeded_samples
from oxrl_core.train.draw import SEED_STRIDE
from oxrl_core.types import Prompt, Rollout, Score

if TYPE_CHECKING:
    from oxrl_core.train.learner import Learner

Record = dict[str, Any]  # one row of a rollouts file


class RecordedSampler:
    """Answers as the sampler that drew, and as the reward that judged. A completion is found by its seed.

    The seed says run, step, draw, prompt and sample at once: whoever asks for another draw finds nothing here.
    """

    def __init__(self, read: Callable[[int], list[Record]], run_seed: int, learner: Learner | None = None) -> None:
        """`read(step)` gives the records of the step that ends with so many optimizer steps."""
        self.read = read
        self.seed = run_seed
        self.learner = learner
        self._step = -1
        self._by_seed: dict[int, Record] = {}

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        group_size: int,
        temperature: float,
        max_tokens: int,
        step: int,
        greedy: bool = False,
    ) -> list[Rollout]:
        """The rollouts of a step as they were drawn, prompt by prompt, with their scores."""
        if prompts:
            self._open(step % SEED_STRIDE + 1)
        samples = seeded_samples(self.seed, step, prompts, group_size)
        return [self._rollout(prompt, index, seed) for prompt, index, seed in samples]

    def judge(self, rollouts: Sequence[Rollout]) -> None:
        """Writes the recorded score onto each rollout."""
        for rollout in rollouts:
            record = self._by_seed[rollout.seed]
            if record["score_status"] is None:
                raise DataError(
                    "the record of this completion has no score",
                    where=_place(self._step, rollout.prompt, rollout.sample_index),
                    next_step="it was learned from without one: keep algorithm.name",
                )
            detail = record.get("score_detail") or ""
            rollout.score = Score(record["score"], record["score_status"], record["score_parts"], detail)

    def load_weights(self, handle: Any, version: int) -> None:
        """There is no engine that would take them: completions say themselves which version drew them."""

    def probe(self, token_ids: Sequence[int]) -> list[list[float]]:
        """What the trainer says: there is no other engine here that could differ from it."""
        return [self.learner.probe(list(token_ids))] if self.learner is not None else []

    def close(self) -> None:
        """Nothing was started."""

    def _open(self, step: int) -> None:
        if step != self._step:
            self._by_seed = {record["seed"]: record for record in self.read(step)}
            self._step = step

    def _rollout(self, prompt: Prompt, sample_index: int, seed: int) -> Rollout:
        place = _place(self._step, prompt, sample_index)
        record = self._by_seed.get(seed)
        if record is None:
            raise NotFoundError(
                "this completion is not in the records",
                where=place,
                next_step="a step can be repeated where all its completions were recorded (rollout.record) and "
                "run.seed, data and rollout are as they were",
            )
        if record["prompt_token_ids"] != prompt.token_ids:
            raise DataError(
                "the prompt is not the one that was recorded: the data changed under the run",
                where=place,
                next_step="restore the data that the run was started with",
            )
        return Rollout(
            prompt=prompt,
            sample_index=sample_index,
            token_ids=record["completion_token_ids"],
            rollout_logprobs=record["rollout_logprobs"],
            finish_reason=record["finish_reason"],
            policy_version=record["policy_version"],
            seed=seed,
            text=record["completion_text"],
        )


def records_of(folder: Path) -> Callable[[int], list[Record]]:
    """Reads the records of a step from the rollouts folder of a run."""

    def read(step: int) -> list[Record]:
        path = folder / f"step-{step:08d}.parquet"
        if not path.is_file():
            raise NotFoundError(
                f"the rollouts of step {step} were not recorded",
                where=str(path),
                next_step="record them (rollout.record=true), and save more often (train.save_every): steps before a "
                "checkpoint need no records",
            )
        return read_rollouts(path)

    return read


def _place(step: int, prompt: Prompt, sample_index: int) -> str:
    return f"step {step}, {prompt.id}, sample {sample_index}"
