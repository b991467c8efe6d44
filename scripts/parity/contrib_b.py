"""The losses of contrib that change DPO's link, weights or targets, against TRL 1.16 or the paper's formula."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from oxrl_core.algorithms.contrib.cal_dpo import cal_dpo
from oxrl_core.algorithms.contrib.chi_po import chi_po
from oxrl_core.algorithms.contrib.dpo_norm import dpo_norm
from oxrl_core.algorithms.contrib.dpo_shift import dpo_shift
from oxrl_core.algorithms.contrib.dr_dpo import dr_dpo
from oxrl_core.algorithms.contrib.f_dpo import f_dpo
from oxrl_core.algorithms.contrib.focal_po import focal_po
from oxrl_core.algorithms.contrib.gpo import gpo
from oxrl_core.algorithms.contrib.h_dpo import h_dpo
from oxrl_core.algorithms.contrib.minor_dpo import minor_dpo
from oxrl_core.algorithms.contrib.odpo import odpo
from oxrl_core.algorithms.contrib.ropo import ropo
from oxrl_core.algorithms.contrib.rpo import rpo
from oxrl_core.algorithms.contrib.sim_per import sim_per
from oxrl_core.algorithms.contrib.wpo import wpo
from oxrl_core.types import ReferencedPairs, StepPairs
from scripts.parity.oracle import Loss, PairCase, compare, pair_cases
from scripts.parity.preference import trl_dpo
from scripts.parity.result import Parity

Cases = Iterator[tuple[Tensor, Loss, Loss]]
Oracle = Callable[[PairCase, Tensor], Tensor]

TRL = "DPOTrainer._compute_loss"
IN_FORMULA = f"{TRL}, loss_type sigmoid, pair by pair, in the paper's formula"
PLAIN = "the paper's formula on probabilities, both in float64"


def rows() -> list[Parity]:
    """One row for each loss. Where TRL has only a part of it, TRL's number is put into the paper's formula."""
    return [
        compare("f_dpo", f"{TRL}, every f_divergence_type", f_dpo_cases()),
        compare("dpo_norm", f"{TRL}, loss_type sigmoid_norm", dpo_norm_cases()),
        compare("wpo", f"{TRL}, use_weighting, log_sum_sq_probs 0", wpo_cases()),
        compare("rpo", f"{TRL}, loss_type [sigmoid, sft], pair by pair", rpo_cases()),
        compare("cal_dpo", f"{TRL}, loss_type sigmoid (beta 1) + sppo_hard", cal_dpo_cases()),
        compare("gpo", f"{TRL}, loss_types sigmoid, hinge, ipo, discopop, in the paper's table", gpo_cases()),
        compare("h_dpo", f"{TRL}, loss_type sigmoid, policy's log-probs scaled", h_dpo_cases()),
        compare("dpo_shift", f"{TRL}, loss_type sigmoid, rejected log-probs scaled", dpo_shift_cases()),
        compare("odpo", f"{TRL}, loss_type sigmoid, reference moved by the offset", odpo_cases()),
        compare("minor_dpo", f"{TRL}, loss_type sigmoid, without rejected log-ratios below 0", minor_dpo_cases()),
        compare("focal_po", IN_FORMULA, focal_po_cases()),
        compare("ropo", IN_FORMULA, ropo_cases()),
        compare("dr_dpo", IN_FORMULA, dr_dpo_cases()),
        compare("chi_po", PLAIN, chi_po_cases()),
        compare("sim_per", PLAIN, sim_per_cases()),
    ]


def against(
    loss: Callable[..., Tensor], oracle: Oracle, cases: Iterable[PairCase] | None = None, **params: Any
) -> Cases:
    """The mean of our loss with these params beside the oracle, over the cases."""
    for case in pair_cases() if cases is None else cases:
        yield (
            case.logprobs,
            lambda logprobs, case=case: loss(case.referenced(logprobs), **params).mean(),
            lambda logprobs, case=case: oracle(case, logprobs),
        )


def moderate() -> list[PairCase]:
    """The cases whose log-ratios can be exponentiated: TRL overflows on the others."""
    return [case for case in pair_cases() if case.name != "large gaps"]


def short() -> list[PairCase]:
    """The cases whose probabilities can be multiplied."""
    return [case for case in moderate() if case.ids.shape[1] <= 60]


def in_float64(cases: list[PairCase]) -> list[PairCase]:
    """The cases in double precision: exp makes a relative error of the rounding of a log-prob of 100 nats."""
    return [replace(case, logits=case.logits.double(), ref=case.ref.double()) for case in cases]


def pair_by_pair(case: PairCase, logprobs: Tensor, **attributes: Any) -> Tensor:
    """TRL's loss of each pair alone, (B,)."""
    num_pairs = len(case.ids) // 2
    return torch.stack(
        [
            trl_dpo(case.of_pair(index), logprobs[[index, index + num_pairs]], **{"loss_type": "sigmoid", **attributes})
            for index in range(num_pairs)
        ]
    )


def both(chosen: Tensor, rejected: Tensor) -> Tensor:
    """(2B, ...) of the two sides."""
    return torch.cat([chosen, rejected])


def f_dpo_cases() -> Cases:
    for beta in (0.1, 0.5):
        for ours, theirs in (("reverse_kl", "reverse_kl"), ("jensen_shannon", "js_divergence")):
            yield from against(f_dpo, trl_divergence(theirs, beta), beta=beta, divergence=ours)
        yield from against(f_dpo, trl_divergence("forward_kl", beta), moderate(), beta=beta, divergence="forward_kl")
        for alpha in (0.0, 0.3, 0.5, 0.7, 1.0):
            oracle = trl_divergence("alpha_divergence", beta, f_alpha_divergence_coef=1 - alpha)
            yield from against(f_dpo, oracle, moderate(), beta=beta, divergence="alpha", alpha=alpha)


def trl_divergence(name: str, beta: float, **attributes: float) -> Oracle:
    return lambda case, logprobs: trl_dpo(case, logprobs, "sigmoid", beta, f_divergence_type=name, **attributes)


def dpo_norm_cases() -> Cases:
    for beta in (0.1, 5.0):
        yield from against(
            dpo_norm, lambda case, logprobs, beta=beta: trl_dpo(case, logprobs, "sigmoid_norm", beta), beta=beta
        )


def wpo_cases() -> Cases:
    for beta in (0.01, 0.1):

        def oracle(case: PairCase, logprobs: Tensor, beta: float = beta) -> Tensor:
            return trl_dpo(case, logprobs, "sigmoid", beta, use_weighting=True)

        yield from against(wpo, oracle, beta=beta)


def rpo_cases() -> Cases:
    # Pair by pair: TRL averages the likelihood over the tokens of the batch, the paper over those of a completion.
    for beta, alpha in ((0.1, 1.0), (0.5, 0.25), (0.1, 0.0)):

        def oracle(case: PairCase, logprobs: Tensor, beta: float = beta, alpha: float = alpha) -> Tensor:
            mixed = {"loss_types": ["sigmoid", "sft"], "loss_weights": [1.0, alpha]}
            return pair_by_pair(case, logprobs, beta=beta, **mixed).mean()

        # At the logits: a masked column of the log-probs is a constant, whatever gradient arrives there.
        for case in pair_cases():
            yield (
                case.logits,
                lambda logits, case=case, beta=beta, alpha=alpha: rpo(
                    case.referenced(case.logprobs_at(logits)), beta=beta, alpha=alpha
                ).mean(),
                lambda logits, case=case, oracle=oracle: oracle(case, case.logprobs_at(logits)),
            )


def cal_dpo_cases() -> Cases:
    for beta, calibration in ((0.002, 1.0), (0.1, 1.0), (0.1, 0.5)):

        def oracle(case: PairCase, logprobs: Tensor, beta: float = beta, calibration: float = calibration) -> Tensor:
            distance = trl_dpo(case, logprobs, "sppo_hard", beta)
            return trl_dpo(case, logprobs, "sigmoid", 1.0) + calibration * distance

        yield from against(cal_dpo, oracle, beta=beta, calibration=calibration)


def gpo_cases() -> Cases:
    for beta in (0.1, 1.0):

        def logistic(case: PairCase, logprobs: Tensor, beta: float = beta) -> Tensor:
            return pair_by_pair(case, logprobs, beta=beta)

        def hinge(case: PairCase, logprobs: Tensor, beta: float = beta) -> Tensor:
            return pair_by_pair(case, logprobs, loss_type="hinge", beta=beta)

        def squared(case: PairCase, logprobs: Tensor, beta: float = beta) -> Tensor:
            # Of one token each: TRL's IPO is per token, the paper's is not.
            return beta**2 * trl_dpo(case, logprobs, "ipo", beta / 2)

        def exponential(case: PairCase, logprobs: Tensor, beta: float = beta) -> Tensor:
            # With an infinite temperature DiscoPOP is half logistic, half exponential.
            half = trl_dpo(case, logprobs, "discopop", beta, args=SimpleNamespace(discopop_tau=math.inf))
            return 2 * half - trl_dpo(case, logprobs, "sigmoid", beta)

        table: list[tuple[str, Oracle, list[PairCase]]] = [
            ("logistic", lambda *of, f=logistic: f(*of).mean(), pair_cases()),
            ("hinge", lambda *of, f=hinge: f(*of).mean(), pair_cases()),
            ("squared", squared, [case for case in pair_cases() if case.name == "one token"]),
            ("exponential", exponential, moderate()),
            ("truncated_quadratic", lambda *of, f=hinge: (f(*of) ** 2).mean(), pair_cases()),
            ("savage", lambda *of, f=logistic: ((1 - (-f(*of)).exp()) ** 2).mean(), moderate()),
        ]
        for function, oracle, cases in table:
            yield from against(gpo, oracle, cases, beta=beta, function=function)


def h_dpo_cases() -> Cases:
    # Scales that are powers of 2: with others the sums of 1,024 scaled numbers differ in their last digits.
    for alpha in (0.5, 1.0, 2.0):

        def oracle(case: PairCase, logprobs: Tensor, alpha: float = alpha) -> Tensor:
            return trl_dpo(case, alpha * logprobs, "sigmoid", 0.1)

        yield from against(h_dpo, oracle, alpha=alpha)


def dpo_shift_cases() -> Cases:
    def oracle(weight: float) -> Oracle:
        def scaled(case: PairCase, logprobs: Tensor) -> Tensor:
            chosen_ref, rejected_ref = case.ref.chunk(2)
            chosen, rejected = logprobs.chunk(2)
            moved = replace(case, ref=both(chosen_ref, weight * rejected_ref))
            return trl_dpo(moved, both(chosen, weight * rejected), "sigmoid", 0.1)

        return scaled

    for weight in (0.0, 0.5, 1.0):
        yield from against(dpo_shift, oracle(weight), rejected_weight=weight)
    yield from against(dpo_shift, oracle(0.95), short())


def odpo_cases() -> Cases:
    for scaling, alpha in (("linear", 1.0), ("linear", 0.5), ("log", 1.0)):
        for case in short():
            margins = torch.linspace(0.25, 3.0, len(case.ids) // 2)
            offset = alpha * (margins if scaling == "linear" else margins.log())
            chosen_ref, rejected_ref = case.ref.chunk(2)
            moved = replace(case, ref=both(chosen_ref + offset / 0.1, rejected_ref))

            def ours(logprobs: Tensor, case=case, margins=margins, scaling=scaling, alpha=alpha) -> Tensor:
                pairs = replace(case.referenced(logprobs), margins=margins)
                return odpo(pairs, alpha=alpha, scaling=scaling).mean()

            yield case.logprobs, ours, lambda logprobs, moved=moved: trl_dpo(moved, logprobs, "sigmoid", 0.1)


def minor_dpo_cases() -> Cases:
    def oracle(case: PairCase, logprobs: Tensor) -> Tensor:
        chosen_ref, rejected_ref = case.ref.chunk(2)
        chosen, rejected = logprobs.chunk(2)
        keep = (rejected.detach().sum(1) >= rejected_ref).float()
        kept = replace(case, ref=both(chosen_ref, keep * rejected_ref))
        return trl_dpo(kept, both(chosen, keep[:, None] * rejected), "sigmoid", 0.1)

    yield from against(minor_dpo, oracle)


def focal_po_cases() -> Cases:
    for gamma in (0.0, 0.05, 2.0):

        def oracle(case: PairCase, logprobs: Tensor, gamma: float = gamma) -> Tensor:
            losses = pair_by_pair(case, logprobs, beta=0.1)
            return (losses * (-gamma * losses).exp()).mean()

        yield from against(focal_po, oracle, gamma=gamma)


def ropo_cases() -> Cases:
    for alpha in (2.0, 14.0, 30.0):

        def oracle(case: PairCase, logprobs: Tensor, alpha: float = alpha) -> Tensor:
            losses = pair_by_pair(case, logprobs, beta=0.1)
            noise_tolerant = 1 - (-losses).exp()
            both_terms = 4 * alpha * losses + 4 * alpha**2 * noise_tolerant
            return (both_terms / (1 + alpha) ** 2).mean()

        yield from against(ropo, oracle, moderate(), alpha=alpha)


def dr_dpo_cases() -> Cases:
    for beta_prime in (0.3, 1.0, 10.0):

        def oracle(case: PairCase, logprobs: Tensor, beta_prime: float = beta_prime) -> Tensor:
            losses = pair_by_pair(case, logprobs, beta=0.1)
            return -beta_prime * (-losses / beta_prime).exp().mean().log()

        def ours(pairs: ReferencedPairs, beta_prime: float = beta_prime) -> Tensor:
            return dr_dpo(whole_step(pairs), beta_prime=beta_prime)

        yield from against(ours, oracle, moderate())


def whole_step(pairs: ReferencedPairs) -> StepPairs:
    """The pairs as those of a step of one micro-batch."""
    return StepPairs(
        **vars(pairs),
        index=torch.arange(len(pairs.margins)),
        step_chosen_logratio=pairs.chosen_logratio.detach(),
        step_rejected_logratio=pairs.rejected_logratio.detach(),
        running={},
    )


def chi_po_cases() -> Cases:
    for beta, alpha, gamma in ((0.05, 1.0, 1.0), (0.1, 1.25, 0.1), (1.0, 0.5, 1.0)):

        def oracle(case: PairCase, logprobs: Tensor, beta=beta, alpha=alpha, gamma=gamma) -> Tensor:
            ratio = logprobs.exp().prod(1) / case.ref.exp()
            chosen, rejected = (ratio**alpha + gamma * ratio.log()).chunk(2)
            return -(1 / (1 + (-beta * (chosen - rejected)).exp())).log().mean()

        yield from against(chi_po, oracle, in_float64(short()), beta=beta, alpha=alpha, gamma=gamma)


def sim_per_cases() -> Cases:
    def oracle(case: PairCase, logprobs: Tensor) -> Tensor:
        geometric_means = logprobs.exp().prod(1) ** (1 / case.mask.sum(1).clamp(min=1).double())
        chosen, rejected = geometric_means.chunk(2)
        return (rejected - chosen).mean()

    yield from against(sim_per, oracle, in_float64(short()))
