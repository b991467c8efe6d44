"""The reward of actions: they are done on the simulated table."""

from __future__ import annotations

from oxrl_core.actions import ActionCode
from oxrl_core.rewards.base import reward
from oxrl_core.simulation import Table
from oxrl_core.types import Prompt, Rollout, Score

FOR_THE_WAY = 0.5  # what the whole way without reaching the target would be worth


def demonstration(prompt: Prompt) -> str | None:
    """What the expert does."""
    return prompt.row.get("completion")


@reward("reaching", gold=demonstration)
def reaching(rollout: Rollout) -> Score:
    """1 where the actions bring the hand to the target, else 0.5 times the share of the way; 0 if they are none.

    A completion that is no chunk of action tokens, or more than one, has status `no_answer`.
    """
    row = rollout.prompt.row
    if not {"hand", "target", "actions"} <= set(row):
        raise ValueError(f"the row {rollout.prompt.id} has no table: it is for data.train: reaching")
    chunk = ActionCode.from_dict(row["actions"]).read(rollout.text)
    if chunk is None:
        return Score(0.0, "no_answer", detail="the completion is no chunk of action tokens")
    before = Table((row["hand"][0], row["hand"][1]), (row["target"][0], row["target"][1]))
    after = before.after(chunk)
    share = max(0.0, 1 - after.distance / before.distance)
    parts = {"success": float(after.is_reached), "distance": after.distance}
    return Score(1.0 if after.is_reached else FOR_THE_WAY * share, parts=parts)
