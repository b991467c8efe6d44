"""Rewards and losses with a fault in them."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from oxrl_core.algorithms.policy_gradient import sgrpo
from oxrl_core.algorithms.preference import dpo
from oxrl_core.algorithms.supervised import sft
from oxrl_core.rewards.base import get_reward
from oxrl_core.types import Rollout

if TYPE_CHECKING:
    from torch import Tensor

    from oxrl_core.types import ReferencedPairs, Rollouts, Tokens


def flipped_sgrpo(rollouts: Rollouts, *, clip_low: float = 0.2, clip_high: float = 0.2) -> Tensor:
    """SGRPO with the wrong sign."""
    return -sgrpo(rollouts, clip_low=clip_low, clip_high=clip_high)


def flipped_sft(tokens: Tokens) -> Tensor:
    """SFT with the wrong sign."""
    return -sft(tokens)


def flipped_dpo(pairs: ReferencedPairs, *, beta: float = 0.1) -> Tensor:
    """DPO with the wrong sign."""
    return -dpo(pairs, beta=beta)


def positions_of(rollout: Rollout) -> float:
    """The healthy reward of the recipes."""
    return get_reward("positions")(rollout).value


def always_one(rollout: Rollout) -> float:
    """A verifier that accepts everything."""
    return 1.0


def always_zero(rollout: Rollout) -> float:
    """An extractor that never finds an answer."""
    return float("The answer is" in rollout.text)


def same_half(rollout: Rollout) -> float:
    """A judge that always says the same."""
    return 0.5


def raises_on_some(rollout: Rollout) -> float:
    """A verifier that breaks on the completions in which it finds no three."""
    return positions_of(rollout) + 0.0 * rollout.text.index("3")


def raises_always(rollout: Rollout) -> float:
    """A verifier with a typing error."""
    raise KeyError("solution")


def hangs(rollout: Rollout) -> float:
    """A verifier that hangs on some completions."""
    if "5" in rollout.text:
        time.sleep(30)
    return positions_of(rollout)


def dice(rollout: Rollout) -> float:
    """A judge that throws dice."""
    return random.Random(time.time_ns()).random()


def backwards(rollout: Rollout) -> float:
    """A reward whose sign is wrong for part of the score only: it pays what it should punish."""
    return 1.0 - positions_of(rollout)


def loves_length(rollout: Rollout) -> float:
    """A judge that likes it long."""
    return len(rollout.token_ids) / 16


def loves_zeros(rollout: Rollout) -> float:
    """A verifier that takes "000" for an answer to everything."""
    return 1.0 if rollout.text.startswith("000") else 0.3 * rollout.text[:3].count("0") / 3


def made_rows(name: str, rows: list[dict[str, object]]) -> str:
    """The path of a file with these rows."""
    import json

    return made_file(name, "".join(json.dumps(row) + "\n" for row in rows))


def made_file(name: str, text: str) -> str:
    """The path of a file of rows with this text."""
    import os
    import tempfile
    from pathlib import Path

    path = Path(tempfile.gettempdir()) / "oxrl-fault-rows" / f"{name}.jsonl"
    path.parent.mkdir(exist_ok=True)
    if not path.exists() or path.read_text() != text:  # another run may be reading it
        written = path.with_suffix(f".{os.getpid()}")
        written.write_text(text)
        written.rename(path)
    return str(path)
