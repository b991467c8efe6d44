"""The contributed preference losses that TRL 1.16 has too, against its DPOTrainer and CPOTrainer.

Losses of log-ratios are compared in float32, those of logits (CPO and its kin) and DiscoPOP, whose gradient is a
difference of two that nearly cancel, in float64: there float32 alone takes up to 5e-6 from either side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from trl.experimental.cpo import CPOConfig, CPOTrainer

from oxrl_core.algorithms.contrib.alpha_po import alpha_po
from oxrl_core.algorithms.contrib.aot import aot
from oxrl_core.algorithms.contrib.apo import apo_down, apo_zero
from oxrl_core.algorithms.contrib.bco import bco
from oxrl_core.algorithms.contrib.cdpo import cdpo
from oxrl_core.algorithms.contrib.cpo import cpo
from oxrl_core.algorithms.contrib.cpo_simpo import cpo_simpo
from oxrl_core.algorithms.contrib.disco_pop import disco_pop
from oxrl_core.algorithms.contrib.exo import exo
from oxrl_core.algorithms.contrib.hinge_norm import hinge_norm
from oxrl_core.algorithms.contrib.nca import nca
from oxrl_core.algorithms.contrib.robust_dpo import robust_dpo
from oxrl_core.algorithms.contrib.slic import slic
from oxrl_core.algorithms.contrib.sppo import sppo
from oxrl_core.types import Labeled, StepPairs
from scripts.parity.oracle import Loss, PairCase, compare, pair_cases, trainer_of
from scripts.parity.preference import trl_dpo, trl_without_reference
from scripts.parity.result import Parity

Cases = Iterator[tuple[Tensor, Loss, Loss]]
BETAS = (0.01, 0.1, 1.0)


def rows() -> list[Parity]:
    """One row for each contributed loss that TRL has too."""
    dpo = "DPOTrainer._compute_loss, loss_type"
    cpo_trainer = "CPOTrainer.get_batch_loss_metrics"
    return [
        compare("alpha_po", f"{cpo_trainer}, loss_type alphapo", alpha_po_cases()),
        compare("aot", f"{dpo} aot_unpaired", dpo_cases(step_loss(aot), "aot_unpaired", BETAS)),
        compare("apo_down", f"{dpo} apo_down", dpo_cases(apo_down, "apo_down", BETAS)),
        compare("apo_zero", f"{dpo} apo_zero", dpo_cases(apo_zero, "apo_zero", BETAS)),
        compare("bco", f"{dpo} bco_pair, reference shifted by delta / beta", bco_cases()),
        compare("cdpo", "CPOTrainer.cpo_loss, loss_type sigmoid with label_smoothing, of log-ratios", cdpo_cases()),
        compare("cpo", f"{cpo_trainer}, loss_type sigmoid, pair by pair", cpo_cases()),
        compare("cpo_simpo", f"{cpo_trainer}, loss_type simpo, pair by pair", cpo_simpo_cases()),
        compare("disco_pop", f"{dpo} discopop", disco_pop_cases()),
        compare("exo", f"{dpo} exo_pair", smoothed_cases(exo, "exo_pair", (1e-3, 0.2))),
        compare("hinge_norm", f"{dpo} hinge", dpo_cases(hinge_norm, "hinge", BETAS)),
        compare("nca", f"{dpo} nca_pair", dpo_cases(nca, "nca_pair", BETAS)),
        compare("robust_dpo", f"{dpo} robust", smoothed_cases(robust_dpo, "robust", (0.0, 0.1, 0.4))),
        compare("slic", f"{cpo_trainer}, loss_type hinge with beta 1 / delta, pair by pair", slic_cases()),
        compare("sppo", f"{dpo} sppo_hard", dpo_cases(sppo, "sppo_hard", (1e-3, 0.1))),
    ]


def in_float64(case: PairCase) -> PairCase:
    return replace(case, logits=case.logits.double(), ref=case.ref.double())


def dpo_cases(loss: Callable[..., Tensor], loss_type: str, betas: tuple[float, ...]) -> Cases:
    """Every pair case at every beta."""
    for case in pair_cases():
        for beta in betas:
            yield one_case(loss, case, {"beta": beta}, loss_type)


def smoothed_cases(loss: Callable[..., Tensor], loss_type: str, smoothings: tuple[float, ...]) -> Cases:
    """Every pair case at every label smoothing."""
    for case in pair_cases():
        for smoothing in smoothings:
            params = {"beta": 0.1, "label_smoothing": smoothing}
            yield one_case(loss, case, params, loss_type, label_smoothing=smoothing)


def disco_pop_cases() -> Cases:
    for case in map(in_float64, pair_cases()):
        if case.name == "large gaps":
            # TRL's exp(-x) overflows there, and its 0 x inf is a NaN; ours is the limit.
            case = replace(case, ref=case.logprobs.sum(1) + (case.ref - case.logprobs.sum(1)) / 50)
        for beta, tau in ((0.05, 0.05), (0.1, 1.0)):
            settings = SimpleNamespace(discopop_tau=tau)
            yield one_case(disco_pop, case, {"beta": beta, "tau": tau}, "discopop", args=settings)


def one_case(
    loss: Callable[..., Tensor], case: PairCase, params: dict[str, float], loss_type: str, **attributes: Any
) -> tuple[Tensor, Loss, Loss]:
    """The case with our loss at these params and DPOTrainer's with these attributes."""
    return (
        case.logprobs,
        lambda logprobs: loss(case.referenced(logprobs), **params).mean(),
        lambda logprobs: trl_dpo(case, logprobs, loss_type, params["beta"], **attributes),
    )


def step_loss(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The loss over StepPairs as one over the pairs of a step that is one micro-batch."""

    def whole_step(pairs: Any, **params: float) -> Tensor:
        step = StepPairs(
            **vars(pairs),
            index=torch.arange(len(pairs.margins)),
            step_chosen_logratio=pairs.chosen_logratio.detach(),
            step_rejected_logratio=pairs.rejected_logratio.detach(),
            running={},
        )
        return loss(step, **params)

    return whole_step


def bco_cases() -> Cases:
    """A pair is two labeled examples, so TRL's mean over pairs is ours over examples, twice."""
    for case in pair_cases():
        for beta in (0.01, 0.1):
            for delta in (0.0, 0.7, -2.0):
                shifted = replace(case, ref=case.ref + delta / beta)
                yield (
                    case.logprobs,
                    lambda logprobs, case=case, beta=beta, delta=delta: (
                        2 * bco(as_labeled(case, logprobs, delta), beta=beta).mean()
                    ),
                    lambda logprobs, shifted=shifted, beta=beta: trl_dpo(shifted, logprobs, "bco_pair", beta),
                )


def as_labeled(case: PairCase, logprobs: Tensor, delta: float) -> Labeled:
    logratio = logprobs.sum(1) - case.ref
    is_desirable = torch.arange(len(logratio)) < len(logratio) // 2
    return Labeled(
        logratio=logratio,
        is_desirable=is_desirable,
        step_logratio=logratio.detach(),
        step_is_desirable=is_desirable,
        step_mismatched=torch.zeros(len(logratio)),
        running={"delta": delta},
    )


def cdpo_cases() -> Cases:
    for case in pair_cases():
        for beta, smoothing in ((0.1, 0.1), (1.0, 0.4), (0.1, 0.0)):
            settings = {"loss_type": "sigmoid", "beta": beta, "label_smoothing": smoothing, "alpha": 0.0}
            yield (
                case.logprobs,
                lambda logprobs, case=case, beta=beta, smoothing=smoothing: cdpo(
                    case.referenced(logprobs), beta=beta, label_smoothing=smoothing
                ).mean(),
                lambda logprobs, case=case, settings=settings: (
                    trainer_of(CPOTrainer, **settings).cpo_loss(*(logprobs.sum(1) - case.ref).chunk(2))[0].mean()
                ),
            )


def single_pairs() -> list[PairCase]:
    """Every pair by itself: TRL averages the likelihood over the tokens of the batch, ours over pairs."""
    cases = map(in_float64, pair_cases())
    return [case.of_pair(index) for case in cases for index in range(len(case.ids) // 2)]


def without_reference(
    case: PairCase, ours: Callable[..., Tensor], settings: dict[str, Any]
) -> tuple[Tensor, Loss, Loss]:
    """The case with our loss of its pairs and CPOTrainer's with these attributes, times `scale`."""
    scale = settings.pop("scale", 1.0)
    attributes = {"alpha": 0.0, "label_smoothing": 0.0, **settings}
    return (
        case.logits,
        lambda logits: ours(case.pairs(case.logprobs_at(logits))).mean(),
        lambda logits: scale * trl_without_reference(CPOTrainer, case, logits, **attributes),
    )


def alpha_po_cases() -> Cases:
    names = ("loss_type", "alpha", "beta", "simpo_gamma", "cpo_alpha")
    for alpha in (0.25, -0.5, 2.0, 0.0):
        config = CPOConfig(loss_type="alphapo", alpha=alpha, beta=2.5, simpo_gamma=0.1, bf16=False, report_to=[])
        settings = {name: getattr(config, name) for name in names}
        for case in map(in_float64, pair_cases()):
            yield without_reference(case, lambda pairs, alpha=alpha: alpha_po(pairs, alpha=alpha), dict(settings))


def cpo_cases() -> Cases:
    for case in single_pairs():
        for beta, weight in ((0.1, 1.0), (1.0, 0.3), (0.1, 0.0)):
            settings = {"loss_type": "sigmoid", "beta": beta, "cpo_alpha": weight}
            yield without_reference(
                case, lambda pairs, beta=beta, weight=weight: cpo(pairs, beta=beta, nll_coef=weight), settings
            )


def cpo_simpo_cases() -> Cases:
    for case in single_pairs():
        for beta, margin, weight in ((10.0, 5.4, 0.05), (2.0, 0.5, 1.0)):
            params = {"beta": beta, "gamma": margin, "nll_coef": weight}
            settings = {"loss_type": "simpo", "beta": beta, "simpo_gamma": margin, "cpo_alpha": weight}
            yield without_reference(case, lambda pairs, params=params: cpo_simpo(pairs, **params), settings)


def slic_cases() -> Cases:
    """max(0, d - x) - w s = d (max(0, 1 - x / d) - w n / d x s / n), where n is the number of chosen tokens."""
    for case in single_pairs():
        tokens = float(case.mask[0].sum())
        for delta, weight in ((1.0, 1.0), (10.0, 0.1), (1.0, 0.0)):
            params = {"delta": delta, "nll_coef": weight}
            settings = {"loss_type": "hinge", "beta": 1 / delta, "cpo_alpha": weight * tokens / delta, "scale": delta}
            yield without_reference(case, lambda pairs, params=params: slic(pairs, **params), settings)
