"""The names of two recipes: the loss is sgrpo's, and a preset (config/presets.py) says where the reward comes from."""

from __future__ import annotations

from oxrl_core.algorithms.base import algorithm
from oxrl_core.algorithms.policy_gradient import sgrpo

algorithm("rlhf", paper="arXiv:2203.02155, section 3.5", summary="sgrpo on the score of a reward model.")(sgrpo)
algorithm("rlaif", paper="arXiv:2309.00267, section 2.2", summary="sgrpo on the verdict of a language model.")(sgrpo)
