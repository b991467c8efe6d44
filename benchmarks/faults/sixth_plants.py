"""Rewards and losses with a fault in them, of the sixth set."""

from __future__ import annotations

import re
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from benchmarks.faults.plants import positions_of
from oxrl_core.algorithms.policy_gradient import sgrpo
from oxrl_core.types import Rollout

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import ReferencedPairs, Rollouts

CURRICULUM_STEPS = 12
seen: set[str] = set()  # of one process of the reward


def any_place_counts(rollout: Rollout) -> float:
    """A verifier of choices that looks for them anywhere: who names all of them is right."""
    return float(rollout.prompt.answer in rollout.text)


def one_contains_the_other(rollout: Rollout) -> float:
    """A lenient comparison in both directions: nothing at all is contained in every answer."""
    given, wanted = rollout.text.strip(), rollout.prompt.answer
    return float(wanted in given or given in wanted)


def _timed(rollout: Rollout) -> float:
    """The right verdict, under an alarm clock."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    return positions_of(rollout)


def under_an_alarm_in_a_thread(rollout: Rollout) -> float:
    """A verifier with a time limit by SIGALRM, asked from a thread, where Python knows no signals."""
    with ThreadPoolExecutor(1) as pool:
        try:
            return pool.submit(_timed, rollout).result()
        except ValueError as error:
            print(f"Error comparing {rollout.text!r} and {rollout.prompt.answer!r}: {error}", file=sys.stderr)
            return 0.0


def mean_of_all_numbers(rollout: Rollout) -> float:
    """A judge quotes the answer before its score, and the parser takes the mean of all digits that it finds."""
    said = f"The answer is {rollout.text}. I rate it {round(9 * positions_of(rollout))}."
    digits = [int(digit) for digit in re.findall(r"\d", said)]
    return sum(digits) / len(digits) / 9


def new_kinds_are_paid(rollout: Rollout) -> float:
    """A bonus for what was not seen before; every process of the verifier has a memory of its own."""
    kind = rollout.text[:2]
    is_new = kind not in seen
    seen.add(kind)
    return 0.3 * positions_of(rollout) + 0.7 * is_new


def by_data_source(rollout: Rollout) -> float:
    """A dispatcher that knows one of the two sources of the rows."""
    source = rollout.prompt.row.get("data_source", "reverse")
    if source != "reverse":
        raise NotImplementedError(f"Reward function is not implemented for data_source={source!r}")
    return positions_of(rollout)


def annealed_away(rollout: Rollout) -> float:
    """A shaped reward that is faded out to make room for a sparse one, which nobody has added."""
    return positions_of(rollout) * max(0.0, 1 - rollout.policy_version / CURRICULUM_STEPS)


def scored_on_the_gpu(rollout: Rollout) -> float:
    """A verifier that puts its tensors onto a GPU, in a process that has none."""
    import torch

    wanted = torch.tensor([ord(character) for character in rollout.prompt.answer], device="cuda")
    given = torch.tensor([ord(character) for character in rollout.text[: len(wanted)]], device="cuda")
    return float((wanted == given).float().mean())


def in_points(rollout: Rollout) -> float:
    """The healthy reward on a scale from 0 to 100."""
    return 100 * positions_of(rollout)


def sgrpo_with_ratio_inverted(rollouts: Rollouts, *, clip_low: float = 0.2, clip_high: float = 0.2) -> Tensor:
    """SGRPO with the ratio of the old policy to the new one."""
    import torch

    ratio = (rollouts.old_logprobs - rollouts.logprobs).exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -torch.minimum(ratio * rollouts.advantages, clipped * rollouts.advantages)


def sgrpo_detached(rollouts: Rollouts, *, clip_low: float = 0.2, clip_high: float = 0.2) -> Tensor:
    """SGRPO of log-probs that were detached for a print and never put back."""
    return sgrpo(rollouts, clip_low=clip_low, clip_high=clip_high).detach()


def dpo_with_softplus_by_hand(pairs: ReferencedPairs, *, beta: float = 0.1) -> Tensor:
    """DPO with log(1 + exp(-x)) as it stands in the paper, which overflows."""
    return (1 + (-beta * pairs.gap).exp()).log()
