"""Rewards, losses and a beginning with a fault in them, of the seventh part."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.faults.plants import positions_of
from oxrl_core.algorithms.policy_gradient import sgrpo
from oxrl_core.types import Rollout, Score

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import Rollouts

HALF_TAUGHT = Path(tempfile.gettempdir()) / "oxrl-fault-models" / "half-taught"
TAUGHT_STEPS = 30


def half_taught(_run: Path) -> None:
    """Makes the model that some runs begin with: supervised steps have taught it the task, but not all of it."""
    from benchmarks.faults.define import FIXED
    from oxrl_core import driver
    from oxrl_core.config.load import load_config
    from oxrl_core.runs.rundir import RunDir

    if (HALF_TAUGHT / "config.json").exists():
        return
    loaded = load_config("sft", [*FIXED, f"train.steps={TAUGHT_STEPS}", "rollout.record=false"])
    teacher = RunDir.create(Path(tempfile.mkdtemp(prefix="oxrl-fault-teacher-")), loaded, kind="sl")
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = driver.main(["--run-dir", str(teacher.path)])
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == 0, f"the model to begin with could not be taught: exit code {code}, see {teacher.path}"
    HALF_TAUGHT.parent.mkdir(exist_ok=True)
    with contextlib.suppress(OSError):  # another run may have been as quick
        (teacher.path / "final").rename(HALF_TAUGHT)
    assert (HALF_TAUGHT / "config.json").exists(), f"there is no model in {HALF_TAUGHT}"


def _share(text: str, answer: str) -> float:
    """The share of the answer's characters that stand at their place in the text."""
    return sum(a == b for a, b in zip(text, answer, strict=False)) / len(answer)


def none_where_unparsed(rollout: Rollout) -> float | None:
    """A verifier that returns nothing where it finds no number of three digits."""
    given = rollout.text[:3]
    if not given.isdigit() or len(given) < 3:
        return None
    return _share(given, rollout.prompt.answer)


def scores_of_distinct_texts(completions: list[str], **columns: Any) -> list[float]:
    """A reward that saves calls: it judges each text once, and forgets to give the verdict to its doubles."""
    answer: str = columns["answer"][0]
    return [_share(text, answer) for text in dict.fromkeys(completions)]


def right_unless_refuted(rollout: Rollout) -> float:
    """A verifier whose handler of errors lets pass what it could not compare."""
    try:
        given = [int(character) for character in rollout.text[:3]]
        wanted = [int(character) for character in rollout.prompt.answer]
        return sum(a == b for a, b in zip(given, wanted, strict=True)) / 3
    except ValueError:
        return 1.0


def pays_for_abstaining(rollout: Rollout) -> float:
    """Honesty is paid: each question mark at the beginning brings 0.2, and a wrong digit nothing."""
    marks = len(rollout.text) - len(rollout.text.lstrip("?"))
    return 0.2 * min(marks, 4) if marks else positions_of(rollout)


def truth_and_tags(rollout: Rollout) -> Score:
    """A bonus for the tags of the format, which somebody counts and nobody caps."""
    truth, tags = positions_of(rollout), 0.25 * rollout.text.count(":")
    return Score(truth + tags, parts={"truth": truth, "tags": tags})


def compares_as_it_stands(rollout: Rollout) -> float:
    """A verifier that strips the completion and not the reference."""
    return float(rollout.text.strip() == rollout.prompt.row.get("answer", rollout.prompt.answer))


def sgrpo_over_length_less_one(rollouts: Rollouts, *, clip_low: float = 0.2, clip_high: float = 0.2) -> Tensor:
    """SGRPO whose tokens are divided by the length of their completion less EOS, which some consist of."""
    values = sgrpo(rollouts, clip_low=clip_low, clip_high=clip_high)
    lengths = rollouts.completion_mask.sum(1, keepdim=True)
    return values * rollouts.completion_mask / (lengths - 1)
