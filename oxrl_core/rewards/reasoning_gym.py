"""The verdict of Reasoning Gym's own verifier: many of its puzzles have more than one right answer."""

from __future__ import annotations

import importlib
import re
from typing import Any

from oxrl_core.rewards.base import reward
from oxrl_core.types import Rollout, Score

ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


@reward("reasoning_gym")
def reasoning_gym(rollout: Rollout) -> Score:
    """0 to 1 as the puzzle's verifier says of the last `<answer>`, else of all that stands behind the thinking."""
    row = rollout.prompt.row
    if "entry" not in row or "task" not in row:
        raise ValueError(f"the row {rollout.prompt.id} is no puzzle: it is for data.train: {{name: reasoning_gym}}")
    library: Any = importlib.import_module("reasoning_gym")
    said = rollout.text.rpartition("</think>")[2]
    tagged = ANSWER.findall(said)
    answer = (tagged[-1] if tagged else said).strip()
    if not answer:
        return Score(0.0, "no_answer")
    return Score(float(library.get_score_answer_fn(row["task"])(answer, row["entry"])))
