"""Supervised and distillation losses against the trainers of TRL 1.16."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor
from trl import SFTTrainer
from trl.experimental.gkd import GKDTrainer
from trl.trainer.distillation_trainer import _chunked_divergence_loss
from trl.trainer.utils import selective_log_softmax

from oxrl_core.algorithms.distillation import gkd, kd
from oxrl_core.algorithms.supervised import cpt, dft, rft, sft
from oxrl_core.types import Distributions, Tokens
from scripts.parity.oracle import Loss, compare, model_output, pair_cases, trainer_of
from scripts.parity.result import Parity

Cases = Iterator[tuple[Tensor, Loss, Loss]]
# The gradient at a token's logits is a difference of probabilities, and float32 knows those to about 1e-7 of 1, however
# near the student is to its teacher.
UNIT = 1.0
BETAS = (0.0, 0.1, 0.5, 0.9, 1.0)


def rows() -> list[Parity]:
    """One row for each supervised or distillation loss and oracle: means over tokens; of distillation sums."""
    nll, jsd = "SFTTrainer.compute_loss, loss_type nll", "GKDTrainer.generalized_jsd_loss"
    return [
        compare("sft", nll, token_cases(sft, "nll")),
        compare("cpt", nll, token_cases(cpt, "nll")),
        compare("rft", nll, token_cases(rft, "nll")),
        compare("dft", "SFTTrainer.compute_loss, loss_type dft", token_cases(dft, "dft")),
        compare("kd", f"alpha SFTTrainer + (1 - alpha) T^2 {jsd}(beta 0, temperature T)", kd_cases(), UNIT),
        compare("gkd", jsd, gkd_cases(trl_jsd), UNIT),
        compare("gkd", "DistillationTrainer's chunked divergence", gkd_cases(trl_chunked), UNIT),
    ]


def token_cases(loss: Callable[[Tokens], Tensor], loss_type: str) -> Cases:
    for case in pair_cases():
        yield (
            case.logprobs,
            lambda logprobs, mask=case.mask: loss(Tokens(logprobs=logprobs, completion_mask=mask)).sum() / mask.sum(),
            lambda logprobs, mask=case.mask: trl_sft(logprobs, mask, loss_type),
        )


def trl_sft(logprobs: Tensor, mask: Tensor, loss_type: str) -> Tensor:
    """SFTTrainer's loss, where `logprobs` is what its fused head says: 0 outside the mask."""
    args = SimpleNamespace(loss_type=loss_type, average_tokens_across_devices=False)
    trainer = trainer_of(SFTTrainer, args=args, compute_loss_func=None, label_smoother=None)
    said = model_output(logprobs.masked_fill(~mask, 0.0), mask)
    inputs = {"labels": mask.long(), "attention_mask": torch.ones_like(mask)}
    return trainer.compute_loss(lambda **_: said, inputs)


@dataclass(frozen=True)
class DistillationCase:
    """N tokens of a student and a teacher."""

    student: Tensor  # (N, V)
    teacher: Tensor  # (N, V)
    targets: Tensor  # (N,)

    def signals(self, logits: Tensor) -> Distributions:
        return Distributions(logits=logits, teacher_logits=self.teacher, targets=self.targets)


def distillation_cases() -> list[DistillationCase]:
    """One token and 1,024, a small and a large vocabulary, sharp distributions, and a student that is its teacher."""
    generator = torch.Generator().manual_seed(23)

    def case(tokens: int, vocabulary: int, spread: float = 1.5) -> DistillationCase:
        student, teacher = (spread * torch.randn((tokens, vocabulary), generator=generator) for _ in range(2))
        return DistillationCase(student, teacher, torch.randint(0, vocabulary, (tokens,), generator=generator))

    same = case(5, 11)
    return [
        case(1, 2),
        case(7, 11),
        case(1024, 50),
        case(3, 5000),
        case(6, 40, spread=8.0),
        DistillationCase(same.student, same.student.clone(), same.targets),
    ]


def trl_jsd(case: DistillationCase, logits: Tensor, beta: float, temperature: float) -> Tensor:
    return GKDTrainer.generalized_jsd_loss(
        logits[None], case.teacher[None], beta=beta, temperature=temperature, reduction="sum"
    )


def trl_chunked(case: DistillationCase, logits: Tensor, beta: float, temperature: float) -> Tensor:
    """DistillationTrainer's divergence, whose head is the identity: its hidden states are our logits."""
    head = torch.eye(logits.shape[1])
    mask = torch.ones(1, len(logits))
    hidden, teacher_hidden = logits[None], case.teacher[None]
    mean, _, _ = _chunked_divergence_loss(hidden, teacher_hidden, head, head, mask, beta, temperature=temperature)
    return mean * len(logits)


def gkd_cases(oracle: Callable[[DistillationCase, Tensor, float, float], Tensor]) -> Cases:
    for case in distillation_cases():
        for beta in BETAS:
            for temperature in (1.0, 2.0):
                if oracle is trl_chunked and case.student.shape[1] > 1000:
                    continue  # an identity of that size costs more than it shows
                yield (
                    case.student,
                    lambda logits, case=case, beta=beta, temperature=temperature: gkd(
                        case.signals(logits), beta=beta, temperature=temperature
                    ).sum(),
                    lambda logits, case=case, beta=beta, temperature=temperature: oracle(
                        case, logits, beta, temperature
                    ),
                )


def trl_kd(case: DistillationCase, logits: Tensor, alpha: float, temperature: float) -> Tensor:
    everything = torch.ones((1, len(logits)), dtype=torch.bool)
    hard = trl_sft(selective_log_softmax(logits, case.targets)[None], everything, "nll") * len(logits)
    soft = trl_jsd(case, logits, 0.0, temperature)
    return alpha * hard + (1 - alpha) * temperature**2 * soft


def kd_cases() -> Cases:
    for case in distillation_cases():
        for alpha in (0.0, 0.5, 0.9, 1.0):
            for temperature in (1.0, 2.0, 5.0):
                yield (
                    case.student,
                    lambda logits, case=case, alpha=alpha, temperature=temperature: kd(
                        case.signals(logits), alpha=alpha, temperature=temperature
                    ).sum(),
                    lambda logits, case=case, alpha=alpha, temperature=temperature: trl_kd(
                        case, logits, alpha, temperature
                    ),
                )
