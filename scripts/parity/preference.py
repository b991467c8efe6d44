"""Preference losses, KTO and reward models against the trainers of TRL 1.16."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from trl import DPOTrainer, KTOTrainer, RewardTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

from oxrl_core.algorithms.preference import dpo, ipo, orpo, simpo
from oxrl_core.algorithms.reward_model import rm
from oxrl_core.algorithms.self_play import online_dpo, spin
from oxrl_core.algorithms.unpaired import kto
from oxrl_core.types import Labeled, ScoredPairs
from scripts.parity.oracle import Loss, PairCase, compare, model_output, pair_cases, trainer_of, with_prompt_token
from scripts.parity.result import Parity

Cases = Iterator[tuple[Tensor, Loss, Loss]]


def rows() -> list[Parity]:
    """One row for each loss over pairs, labels or scores that TRL has too."""
    sigmoid = "DPOTrainer._compute_loss, loss_type sigmoid"
    cpo = "CPOTrainer.get_batch_loss_metrics"
    return [
        compare("dpo", sigmoid, dpo_cases(dpo, "sigmoid", (0.01, 0.1, 1.0))),
        compare("ipo", "DPOTrainer._compute_loss, loss_type ipo", dpo_cases(ipo, "ipo", (0.01, 0.1, 1.0))),
        compare("online_dpo", sigmoid, dpo_cases(online_dpo, "sigmoid", (0.1,))),
        compare("spin", sigmoid, dpo_cases(spin, "sigmoid", (0.1, 5.0))),
        compare("simpo", f"{cpo}, loss_type simpo, cpo_alpha 0", simpo_cases()),
        compare("orpo", "ORPOTrainer.get_batch_loss_metrics, pair by pair, prompt of one token", orpo_cases()),
        compare("kto", "KTOTrainer._compute_loss", kto_cases()),
        compare("rm", "RewardTrainer.compute_loss", rm_cases()),
    ]


def trl_dpo(case: PairCase, logprobs: Tensor, loss_type: str, beta: float, **attributes: Any) -> Tensor:
    """DPOTrainer's loss of a case, where `logprobs` (2B, T) is what the policy said."""
    chosen_ref, rejected_ref = case.ref.chunk(2)
    inputs = {
        "input_ids": with_prompt_token(case.ids),
        "attention_mask": torch.ones_like(with_prompt_token(case.ids)),
        "completion_mask": with_prompt_token(case.mask.long()),
        "ref_chosen_logps": chosen_ref,
        "ref_rejected_logps": rejected_ref,
    }
    defaults = {
        "beta": beta,
        "loss_types": [loss_type],
        "loss_weights": [1.0],
        "label_smoothing": 0.0,
        "ld_alpha": None,
        "precompute_ref_logps": True,
        "f_divergence_type": "reverse_kl",
        "use_weighting": False,
    }
    trainer = trainer_of(DPOTrainer, **{**defaults, **attributes})
    said = model_output(logprobs, case.mask)
    return trainer._compute_loss(lambda **_: said, inputs, return_outputs=False)


def dpo_cases(loss: Callable[..., Tensor], loss_type: str, betas: tuple[float, ...]) -> Cases:
    for case in pair_cases():
        for beta in betas:
            yield (
                case.logprobs,
                lambda logprobs, case=case, beta=beta: loss(case.referenced(logprobs), beta=beta).mean(),
                lambda logprobs, case=case, beta=beta: trl_dpo(case, logprobs, loss_type, beta),
            )


def trl_without_reference(
    kind: type[CPOTrainer] | type[ORPOTrainer], case: PairCase, logits: Tensor, **attributes: Any
) -> Tensor:
    """CPOTrainer's or ORPOTrainer's loss of a case, from the policy's logits (2B, T, V), with one prompt token.

    Both take the likelihood of prompt and completion; with one prompt token, which nothing predicts, and the masked
    columns outside the attention mask, that is the likelihood of the completion.
    """
    shifted = torch.cat([logits, torch.zeros_like(logits[:, :1])], dim=1)
    ids, mask = with_prompt_token(case.ids), with_prompt_token(case.mask.long())
    batch = {}
    for name, side in (("chosen", 0), ("rejected", 1)):
        batch[f"{name}_input_ids"] = ids.chunk(2)[side]
        batch[f"{name}_attention_mask"] = mask.chunk(2)[side]
        batch[f"{name}_labels"] = ids.masked_fill(mask == 0, -100).chunk(2)[side]
    trainer = trainer_of(kind, is_encoder_decoder=False, pad_token_id=0, padding_value=0, **attributes)
    said = SimpleNamespace(logits=shifted)
    return trainer.get_batch_loss_metrics(lambda *_, **__: said, batch)[0]


def simpo_cases() -> Cases:
    for case in pair_cases():
        for beta, gamma in ((2.0, 1.0), (2.0, 0.0), (10.0, 3.0), (0.1, 0.5)):
            settings = {"loss_type": "simpo", "beta": beta, "simpo_gamma": gamma}
            settings |= {"cpo_alpha": 0.0, "alpha": 0.0, "label_smoothing": 0.0}
            yield (
                case.logits,
                lambda logits, case=case, beta=beta, gamma=gamma: simpo(
                    case.pairs(case.logprobs_at(logits)), beta=beta, gamma=gamma
                ).mean(),
                lambda logits, case=case, settings=settings: trl_without_reference(
                    CPOTrainer, case, logits, **settings
                ),
            )


def orpo_cases() -> Cases:
    # One pair at a time: TRL averages the likelihood over the tokens of the batch, the paper over pairs.
    single_pairs = [whole.of_pair(index) for whole in pair_cases() for index in range(len(whole.ids) // 2)]
    for case in single_pairs:
        for beta in (0.1, 1.0):
            yield (
                case.logits,
                lambda logits, case=case, beta=beta: orpo(case.pairs(case.logprobs_at(logits)), beta=beta).mean(),
                lambda logits, case=case, beta=beta: trl_without_reference(ORPOTrainer, case, logits, beta=beta),
            )


def kto_cases() -> Cases:
    """Every pair case read as single completions, under a positive and a negative estimate of the KL, with both kinds
    of label and with one of them alone.
    """
    generator = torch.Generator().manual_seed(21)
    for case in pair_cases():
        mismatched = torch.randn(len(case.ids), generator=generator)
        mixed = torch.arange(len(case.ids)) % 2 == 0
        for shift in (3.0, -3.0):
            for is_desirable in (mixed, torch.ones_like(mixed), torch.zeros_like(mixed)):
                for beta, desirable, undesirable in ((0.1, 1.0, 1.0), (0.5, 1.33, 0.7)):
                    labels, estimates = is_desirable, mismatched + shift
                    params = {"beta": beta, "desirable_weight": desirable, "undesirable_weight": undesirable}
                    yield (
                        case.logprobs,
                        lambda logprobs, case=case, labels=labels, estimates=estimates, params=params: kto(
                            labeled(case, logprobs, labels, estimates), **params
                        ).mean(),
                        lambda logprobs, case=case, labels=labels, estimates=estimates, params=params: trl_kto(
                            case, logprobs, labels, estimates, **params
                        ),
                    )


def labeled(case: PairCase, logprobs: Tensor, is_desirable: Tensor, mismatched: Tensor) -> Labeled:
    logratio = logprobs.sum(1) - case.ref
    return Labeled(
        logratio=logratio,
        is_desirable=is_desirable,
        step_logratio=logratio.detach(),
        step_is_desirable=is_desirable,
        step_mismatched=mismatched,
        running={},
    )


def trl_kto(case: PairCase, logprobs: Tensor, is_desirable: Tensor, mismatched: Tensor, **params: float) -> Tensor:
    """KTOTrainer's loss; the mismatched completions are one token long, with the log-ratios that are given."""
    ids, mask = with_prompt_token(case.ids), with_prompt_token(case.mask.long())
    kl_ids = torch.ones((len(ids), 2), dtype=torch.long)
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "completion_mask": mask,
        "KL_input_ids": kl_ids,
        "KL_attention_mask": torch.ones_like(kl_ids),
        "KL_completion_mask": torch.tensor([[0, 1]]).expand(len(ids), 2),
        "label": is_desirable,
        "ref_logps": case.ref,
        "ref_KL_logps": torch.zeros(len(ids)),
    }

    def model(input_ids: Tensor, **_: Any) -> SimpleNamespace:
        if input_ids.shape == kl_ids.shape and torch.equal(input_ids, kl_ids):
            return model_output(mismatched[:, None], torch.ones((len(ids), 1), dtype=torch.bool))
        return model_output(logprobs, case.mask)

    trainer = trainer_of(KTOTrainer, loss_type="kto", calculate_KL=True, precompute_ref_logps=True, **params)
    return trainer._compute_loss(model, batch, return_outputs=False)


def rm_cases() -> Cases:
    generator = torch.Generator().manual_seed(22)
    for num_pairs, spread in ((1, 1.0), (5, 3.0), (64, 1.0), (4, 2000.0)):
        scores = spread * torch.randn(2 * num_pairs, generator=generator)
        data_margins = torch.rand(num_pairs, generator=generator)
        for margins in (torch.zeros(num_pairs), data_margins):
            for centering in (0.0, 0.01):
                params = {"margins": margins, "centering": centering}
                yield (
                    scores,
                    lambda scores, params=params: our_rm(scores, **params),
                    lambda scores, params=params: trl_rm(scores, **params),
                )


def our_rm(scores: Tensor, margins: Tensor, centering: float) -> Tensor:
    chosen, rejected = scores.chunk(2)
    return rm(ScoredPairs(chosen_score=chosen, rejected_score=rejected, margins=margins), centering=centering).mean()


def trl_rm(scores: Tensor, margins: Tensor, centering: float) -> Tensor:
    inputs: dict[str, Any] = {"attention_mask": torch.ones((len(scores), 1))}
    if margins.any():
        inputs["margin"] = margins
    trainer = trainer_of(RewardTrainer, args=SimpleNamespace(center_rewards_coefficient=centering or None))
    return trainer.compute_loss(lambda **_: SimpleNamespace(logits=scores[:, None]), inputs)
