"""The teacher of a distillation: a frozen model with the student's vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from oxrl_core.errors import ConfigError, ModelError
from oxrl_core.models.load import load_policy, load_tokenizer
from oxrl_core.models.logprobs import Distillation, PolicyModel
from oxrl_core.types import Distributions

if TYPE_CHECKING:
    from oxrl_core.config.schema import ModelConfig


class Teacher:
    """A frozen causal model and how many tokens of its vocabulary are the student's."""

    def __init__(self, model: PolicyModel, num_tokens: int | None) -> None:
        self.model = model
        self.num_tokens = num_tokens  # none: all rows of both output heads

    @torch.no_grad()
    def distillation(self, rows: dict[str, Tensor], loss: Callable[[Distributions], Tensor]) -> Distillation:
        """`loss` beside what the teacher says about these rows; the teacher's logits are made chunk by chunk."""

        def read(logits: Tensor, targets: Tensor, states: Tensor) -> tuple[Tensor]:
            with torch.no_grad():
                teacher_logits = self.model.logits(states)[:, : self.num_tokens]
            values = loss(
                Distributions(logits=logits[:, : self.num_tokens], teacher_logits=teacher_logits, targets=targets)
            )
            if values.shape != targets.shape:
                raise ConfigError(
                    f"a distillation loss gave the shape {tuple(values.shape)} for {len(targets)} tokens",
                    "algorithm.name",
                    "return one value for each token, unreduced",
                )
            return (values,)

        return Distillation(read, self.model.states(self.model.decoder_inputs(**rows)))


def load_teacher(
    folder: Path, student_folder: Path, student: PolicyModel, model: ModelConfig, dtype: torch.dtype
) -> Teacher:
    """The teacher on the CPU, frozen.

    Its vocabulary must be the student's, token by token. Output heads may be padded to different sizes: then only the
    tokens that the tokenizer knows are compared.
    """
    mine, theirs = load_tokenizer(student_folder), load_tokenizer(folder)
    teacher = PolicyModel(load_policy(folder, model, dtype)).requires_grad_(False).eval()
    teacher.check_head()
    sizes = [int(part.base.config.get_text_config().vocab_size) for part in (student, teacher)]
    if mine.get_vocab() != theirs.get_vocab() or len(mine) > min(sizes):
        raise ModelError(
            f"the teacher's vocabulary is not the student's: {len(theirs)} tokens and {sizes[1]} logits, "
            f"the student has {len(mine)} and {sizes[0]}",
            f"algorithm.teacher: {folder}",
            "take a teacher of the student's family, with the same tokenizer",
        )
    return Teacher(teacher, None if sizes[0] == sizes[1] else len(mine))
