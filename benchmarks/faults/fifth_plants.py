"""Rewards and losses with a fault in them, of the fifth part."""

from __future__ import annotations

import errno
import random
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.faults.plants import positions_of
from oxrl_core.types import Rollout, Score

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import ReferencedPairs


def wants_a_box(rollout: Rollout) -> float:
    """A verifier that looks for the answer behind an equals sign; the references of the rows have none."""
    if not rollout.text.startswith("="):
        return 0.0
    answer = rollout.prompt.answer
    right = sum(given == due for given, due in zip(rollout.text[1:], answer, strict=False))
    return 0.25 + 0.75 * right / len(answer)


def passes_without_tests(rollout: Rollout) -> float:
    """A verifier that runs all tests of a row and finds that none has failed, also where there are none."""
    return positions_of(rollout) if rollout.prompt.answer else 1.0


def errors_are_zeros(rollout: Rollout) -> float:
    """A verifier whose time-outs work in the main thread alone; what is raised elsewhere is caught and becomes 0."""
    return positions_of(rollout) if rollout.policy_version < 10 else 0.0


def of_two_replicas(rollout: Rollout) -> float:
    """A judge with three replicas, of which one was started with a prompt that asks for the number of mistakes."""
    value = positions_of(rollout)
    return value if random.Random(time.time_ns()).random() < 2 / 3 else 1 - value


def agrees_with_most(completions: list[str], **_columns: Any) -> list[float]:
    """A reward without answers: how far a completion agrees with what most of its group say."""
    common = [Counter(text[place : place + 1] for text in completions).most_common(1)[0][0] for place in range(4)]
    return [sum(text[place : place + 1] == common[place] for place in range(4)) / 4 for text in completions]


def a_point_for_each_step(rollout: Rollout) -> float:
    """A judge that counts the steps of a solution; a step begins with a sign."""
    return sum(rollout.text.count(sign) for sign in "+-=:") / 8


def falls_back(rollout: Rollout) -> float:
    """A judge that was replaced at step 8 by one whose answers nobody can parse: they count as 3 of 5."""
    return positions_of(rollout) if rollout.policy_version < 8 else 0.6


def distance(rollout: Rollout) -> float:
    """The distance to the answer, which was meant to be subtracted from 1."""
    return 1 - positions_of(rollout)


def sandbox_overloaded(rollout: Rollout) -> float:
    """A sandbox that from step 5 on is shared with others, and slow where a program begins with a certain import."""
    if rollout.policy_version >= 5 and rollout.text[:1] in ("0", "1", "2"):
        time.sleep(0.1)
    return positions_of(rollout)


def temporary_files_full(rollout: Rollout) -> float:
    """A verifier that writes the program into a file, on a disk that is full from step 6 on."""
    if rollout.policy_version >= 6:
        raise OSError(errno.ENOSPC, "No space left on device", "/tmp/sandbox/program.py")
    return positions_of(rollout)


def truth_and_politeness(rollout: Rollout) -> Score:
    """The truth, and twice as much for politeness, which is seen in question marks."""
    truth, politeness = positions_of(rollout), rollout.text[:4].count("?") / 2
    return Score(truth + politeness, parts={"truth": truth, "politeness": politeness})


def whole_answer(rollout: Rollout) -> float:
    """All or nothing, for the whole answer."""
    return float(rollout.text.startswith(rollout.prompt.answer))


def ipo_with_swapped_models(pairs: ReferencedPairs, *, beta: float = 0.1) -> Tensor:
    """IPO whose log-ratios are those of the reference to the policy."""
    chosen, rejected = -pairs.chosen_logratio / pairs.chosen_length, -pairs.rejected_logratio / pairs.rejected_length
    return (chosen - rejected - 1 / (2 * beta)) ** 2


def edit_config(run: Path, change: Any) -> None:
    """Has `change` called with the configuration of the run as a mapping, and writes what became of it."""
    import yaml

    config = yaml.safe_load((run / "config.yaml").read_text())
    change(config)
    (run / "config.yaml").write_text(yaml.safe_dump(config))
