"""The reward that another model gives. Its work happens below the torch line: rollout/scorer.py is its service."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from oxrl_core.errors import RewardError
from oxrl_core.parameters import Text
from oxrl_core.rewards.base import reward
from oxrl_core.types import Rollout, Score

Count = Annotated[int, Field(gt=0)]
ENDING_KEY = "reward_ending"  # in a reward model's config.json: "eos" where its rows ended with EOS alone in training


@reward("reward_model")
def reward_model(
    rollout: Rollout,
    *,
    path: Text,
    revision: Text | None = None,
    max_length: Count | None = None,
    batch_tokens: Count = 16384,
    ending: Literal["auto", "eos", "template"] = "auto",
) -> Score:
    """Score of prompt and completion at their last token, by a reward model with its own tokenizer and template (RLHF).

    `path`: `run:<id>` of a reward model trained here, a folder or a hub id. `max_length`: a longer row has no verdict;
    none: what the model can read. `ending`: what stands behind a completion that ended by itself: EOS alone, as reward
    models are trained here, or all that the chat template writes after a turn, as most of the hub are; auto: by what
    the model's config.json says of its training.
    """
    raise RewardError(
        f"the reward model {path} is loaded by a run, and not by calling its name",
        where="reward.name = reward_model",
        next_step="use it in a run, or score rows with oxrl_core.rollout.scorer.RewardModelWorker",
    )
