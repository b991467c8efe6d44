"""All sampler workers as one object. What it draws does not depend on how many they are or where they stand.

Where they share GPUs with the learner (rollout.colocate), the sampler itself takes turns: awake from the sync of the
weights until the draw is done, asleep while the learner trains.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from oxrl_core.errors import StalePolicyError, WorkerDied
from oxrl_core.types import Prompt, Rollout

if TYPE_CHECKING:
    from oxrl_core.config.schema import Config
    from oxrl_core.rollout.worker import Completion
    from oxrl_core.train.groups import WorkerGroup


class Sampler:
    """The workers that draw rollouts, and the version of the policy that they hold."""

    def __init__(
        self,
        group: WorkerGroup,
        config: Config,
        decode: Callable[[list[int]], str] | None = None,
        say: Callable[[str, str, str], None] = lambda *_: None,
    ) -> None:
        """`decode` turns completion tokens into `Rollout.text`; without it the text stays empty.

        `say` takes level, code and message of an event.
        """
        self.group = group
        self.seed = config.run.seed
        self.decode = decode
        self.shares_gpus = config.rollout.colocate
        self.is_awake = True  # workers load what they need
        self.policy_version = 0  # the model folder holds the weights before the first step
        self.say = say
        self.retries_left = config.rollout.retries if group.can_replace else 0
        self.weights: Any = None  # handle to those of the last sync, kept for workers that take the place of dead ones

    def ready(self) -> list[dict[str, Any]]:
        """What each worker is, once all are loaded."""
        return self.group.call("ready")

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
        """The rollouts of a step, prompt by prompt, `group_size` of each; all drawn by one version of the policy."""
        if not prompts:
            return []
        samples = seeded_samples(self.seed, step, prompts, group_size)
        # Contiguous shares: a prompt's group mostly stays on one worker, which reads the prompt once.
        shares = [samples[start:end] for start, end in _even_cuts(len(samples), self.group.size)]
        arguments = [
            (
                [prompt.token_ids for prompt, _, _ in share],
                [seed for *_, seed in share],
                temperature,
                max_tokens,
                greedy,
            )
            for share in shares
        ]
        if any(prompt.media for prompt in prompts):
            arguments = [
                (*rest, [prompt.media for prompt, _, _ in share]) for rest, share in zip(arguments, shares, strict=True)
            ]
        self.wake()
        answers: list[list[Completion]] = self._call_each("generate", arguments)
        self.sleep()
        completions = [completion for answer in answers for completion in answer]
        rollouts = [
            Rollout(
                prompt=prompt,
                sample_index=index,
                token_ids=completion.token_ids,
                rollout_logprobs=completion.logprobs,
                finish_reason=completion.finish_reason,
                policy_version=completion.policy_version,
                seed=seed,
                text=self.decode(completion.token_ids) if self.decode else "",
            )
            for (prompt, index, seed), completion in zip(samples, completions, strict=True)
        ]
        versions = {rollout.policy_version for rollout in rollouts}
        if versions != {self.policy_version}:
            raise StalePolicyError(
                f"workers drew with versions {sorted(versions)} of the policy, not with {self.policy_version} alone",
                where=f"step {step}",
                next_step="a worker missed a weight sync; see the sampler logs and start the run again, it resumes",
            )
        return rollouts

    def load_weights(self, handle: Any, version: int) -> None:
        """Gives every worker the weights behind the handle of `submit`; they never pass through the controller."""
        self.wake()
        self.weights = None  # two whole copies need not lie in Ray's store at once
        self._call_each("load_weights", [(handle, version)] * self.group.size)
        self.policy_version = version
        if self.retries_left:
            self.weights = handle

    def probe(self, token_ids: Sequence[int]) -> list[list[float]]:
        """Per worker: the log-prob of each token of a fixed row at temperature 1; 0 for the first."""
        self.wake()
        return self._call_each("probe", [(list(token_ids),)] * self.group.size)

    def _call_each(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """What each worker answers. What a dead one owes is asked of another that is just like it: nothing changes."""
        return self.group.call_each(method, arguments, self._replace if self.retries_left else None)

    def _replace(self, index: int, death: WorkerDied) -> None:
        """Puts another worker with the same weights in the place of a dead one; raises where too many have died."""
        if not self.retries_left:
            raise death
        self.retries_left -= 1
        # Before the first sync the weights are those of the model folder.
        load = [] if self.weights is None else [("load_weights", (self.weights, self.policy_version))]
        self.group.replace(index, load)
        self.say("warning", "worker_replaced", f"{death.what}; another one has its place and draws what it owed")

    def sleep(self) -> None:
        """Gives the GPUs to the learner, where they are shared. Done after each draw: then it is the learner's turn."""
        if self.shares_gpus and self.is_awake:
            self.group.call("sleep")
            self.is_awake = False

    def wake(self) -> None:
        """Takes the GPUs again, where they are shared. Done before anything that needs the weights."""
        if self.shares_gpus and not self.is_awake:
            self.group.call("wake")
            self.is_awake = True

    def close(self) -> None:
        """Ends the workers."""
        self.group.close()


def seeded_samples(
    run_seed: int, step: int, prompts: Sequence[Prompt], group_size: int
) -> list[tuple[Prompt, int, int]]:
    """Prompt, sample index and seed of every completion of a draw, prompt by prompt."""
    samples: list[tuple[Prompt, int, int]] = []
    times_seen: Counter[str] = Counter()
    for prompt in prompts:
        # A prompt that occurs twice in a draw continues its seeds: the same group twice would teach nothing.
        first = times_seen[prompt.id]
        times_seen[prompt.id] += group_size
        for index in range(group_size):
            samples.append((prompt, index, sample_seed(run_seed, step, prompt.id, first + index)))
    return samples


def sample_seed(run_seed: int, step: int, prompt_id: str, sample_index: int) -> int:
    """The seed of one sample (63 bits): the same on every machine and with any placement."""
    key = json.dumps([run_seed, step, prompt_id, sample_index]).encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 1


def _even_cuts(count: int, num_parts: int) -> list[tuple[int, int]]:
    """Borders of contiguous parts whose sizes differ by at most one."""
    return [(count * part // num_parts, count * (part + 1) // num_parts) for part in range(num_parts)]
