"""Distillation against whole logits, and teachers that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import ARCHITECTURES, Largest, build, rows

from oxrl_core.config.schema import ModelConfig
from oxrl_core.errors import ConfigError, ModelError
from oxrl_core.models.load import load_policy
from oxrl_core.models.logprobs import PolicyModel
from oxrl_core.models.miniature import make_miniature
from oxrl_core.models.teacher import Teacher, load_teacher
from oxrl_core.types import Distributions

MODEL = ModelConfig(path="x")


def divergence(signals: Distributions) -> torch.Tensor:
    # The test models' logits are wide: a temperature keeps their distributions apart from certainty.
    student, teacher = (signals.logits / 40).log_softmax(-1), (signals.teacher_logits / 40).log_softmax(-1)
    return (teacher.exp() * (teacher - student)).sum(-1) + 0.01 * signals.targets


def by_hand(student: torch.nn.Module, teacher: torch.nn.Module, batch: dict[str, torch.Tensor], mask: torch.Tensor):
    """KL(teacher || student) at every wanted token, one by one, from probabilities of whole logits."""
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    p = (teacher(**inputs).logits.detach() / 40).softmax(-1)
    q = (student(**inputs).logits / 40).softmax(-1)
    values = torch.zeros(mask.shape)
    for row, column in mask.nonzero().tolist():
        value = torch.nn.functional.kl_div(q[row, column - 1].log(), p[row, column - 1], reduction="sum")
        values[row, column] = value + 0.01 * batch["input_ids"][row, column]
    return values


@pytest.mark.parametrize("own_head", [True, False])
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_distillation_has_the_value_and_gradient_of_whole_logits(model_type: str, own_head: bool) -> None:
    student = build(model_type)
    other = build(model_type)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
    policy = PolicyModel(student, chunk_elements=5 * 320)
    teacher = Teacher(PolicyModel(other, chunk_elements=5 * 320).requires_grad_(False).eval(), None)
    policy.uses_own_head = teacher.model.uses_own_head = own_head
    batch = rows([9, 4, 12], 12)
    mask = batch["attention_mask"].clone()
    mask[:, :2] = False
    weights = torch.rand(3, 12, generator=torch.Generator().manual_seed(2))
    found = []
    for way in ("chunks", "whole"):
        student.zero_grad()
        if way == "chunks":
            values = policy(**batch, wanted=mask, distillation=teacher.distillation(batch, divergence))[0]
        else:
            values = by_hand(student, other, batch, mask)
        (values * weights).sum().backward()
        found.append((values.detach(), {name: p.grad.clone() for name, p in student.named_parameters()}))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-5)
    assert float(found[0][0][~mask].abs().max()) == 0
    assert float((found[0][0] - 0.01 * batch["input_ids"])[mask].min()) > 1e-4, "the two models differ everywhere"
    for name, gradient in found[1][1].items():
        assert float((found[0][1][name] - gradient).norm()) <= 1e-5 * float(gradient.norm()) + 1e-5, name
    assert all(parameter.grad is None for parameter in other.parameters())


def test_no_tensor_of_all_logits_of_student_or_teacher_exists() -> None:
    policy = PolicyModel(build(vocab_size=4096), chunk_elements=16 * 4096)
    teacher = Teacher(PolicyModel(build(vocab_size=4096), chunk_elements=16 * 4096).requires_grad_(False), None)
    batch = rows([128] * 4, 128)
    with Largest() as largest:
        policy(**batch, distillation=teacher.distillation(batch, divergence))[0].sum().backward()
    assert largest.elements < 4 * 128 * 4096 / 4


def test_a_batch_with_nothing_to_distill_still_reaches_every_parameter() -> None:
    student = build()
    teacher = Teacher(PolicyModel(build()).requires_grad_(False), None)
    batch = rows([2], 2)
    nothing = torch.zeros(1, 2, dtype=torch.bool)
    distillation = teacher.distillation(batch, divergence)
    PolicyModel(student)(**batch, wanted=nothing, distillation=distillation)[0].sum().backward()
    assert all(p.grad is not None and float(p.grad.abs().max()) == 0 for p in student.parameters())


def test_a_loss_that_reduces_is_refused() -> None:
    teacher = Teacher(PolicyModel(build()).requires_grad_(False), None)
    batch = rows([6], 6)
    with pytest.raises(ConfigError, match="for 5 tokens"):
        PolicyModel(build())(**batch, distillation=teacher.distillation(batch, lambda signals: signals.logits.sum()))


# ---- folders -------------------------------------------------------------------------------------------------------


def padded(folder: Path, target: Path, size: int) -> Path:
    """The same model with output and embedding rows that no token uses, and that would win every softmax."""
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    config = json.loads((target / "config.json").read_text())
    config["vocab_size"] = size
    (target / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    rows = weights["model.embed_tokens.weight"]
    weights["model.embed_tokens.weight"] = torch.cat([rows, torch.full((size - len(rows), rows.shape[1]), 9.0)])
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


def student_of(folder: Path) -> PolicyModel:
    return PolicyModel(load_policy(folder, MODEL, torch.float32))


def test_a_teacher_with_padded_vocabulary_is_compared_on_the_tokens_alone(tmp_path: Path) -> None:
    folder = make_miniature("qwen2.5-0.5b-instruct", tmp_path / "model", seed=0)
    wide = padded(folder, tmp_path / "wide", 352)
    for student_folder, teacher_folder in ((folder, wide), (wide, folder), (folder, folder)):
        student = student_of(student_folder)
        teacher = load_teacher(teacher_folder, student_folder, student, MODEL, torch.float32)
        batch = rows([9, 4], 9)
        values = student(**batch, distillation=teacher.distillation(batch, divergence))[0]
        present = batch["attention_mask"].clone()
        present[:, 0] = False
        expected = 0.01 * batch["input_ids"] * present
        assert torch.allclose(values, expected, atol=1e-5), "the same model on the same tokens: KL 0"


def test_a_teacher_with_another_vocabulary_is_refused_with_both_sizes(tmp_path: Path) -> None:
    folder = make_miniature("qwen2.5-0.5b-instruct", tmp_path / "model", seed=0)
    other = make_miniature("chars", tmp_path / "other", seed=0)
    with pytest.raises(ModelError, match="19 tokens and 19 logits, the student has 320 and 320") as caught:
        load_teacher(other, folder, student_of(folder), MODEL, torch.float32)
    assert "same tokenizer" in caught.value.next_step
