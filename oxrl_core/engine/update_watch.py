"""What an update does to the parameters one by one: gradients that are zero or not finite, updates that vanish.

The largest |gradient| of each parameter is taken while backward produces it, for DeepSpeed leaves no gradient behind.
Whether updates arrive is seen on a sample of the stored weights before and after the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from oxrl_core.engine.state import base_optimizer, masters
from oxrl_core.errors import NumericsError

if TYPE_CHECKING:
    from oxrl_core.engine.policy import PolicyEngine

DEAD_AFTER = 5  # updates in a row with a gradient of exactly zero
SAMPLED = 4096  # stored weights of each tensor that are compared before and after an update
COMPARED_EVERY = 10  # updates; and the first three


class UpdateWatch:
    """The gradients and updates of one engine's trained parameters, by name. Every rank holds one."""

    def __init__(self, policy: PolicyEngine) -> None:
        self.policy = policy
        trained = [(name, p) for name, p in policy.policy.named_parameters() if p.requires_grad]
        self.names = [name.removeprefix("model.") for name, _ in trained]
        self.peaks: list[float] = []  # largest |gradient| of each in the last update, inf where not finite; all ranks
        self.idle = [0] * len(trained)  # updates in a row in which it had no gradient
        self._found: list[list[Tensor]] = [[] for _ in trained]
        self._before: list[Tensor] | None = None
        for index, (_, parameter) in enumerate(trained):
            parameter.register_hook(self._listener(index))

    def _listener(self, index: int) -> Callable[[Tensor], None]:
        found = self._found[index]

        def listen(gradient: Tensor) -> None:
            if gradient.numel():
                # On the CPU ten times quicker than the norm of order inf, and as exact; NaN goes through.
                found.extend(torch.aminmax(gradient.detach()))

        return listen

    def before_step(self) -> str | None:
        """The name of the first parameter whose gradient is not finite; None where all are. Every rank must call it."""
        # One transfer for all of them: small operations would cost more than the extremes themselves.
        extremes = [extreme for found in self._found for extreme in found]
        values = iter(torch.stack(extremes).tolist() if extremes else [])
        self.peaks = [_largest([next(values) for _ in found]) for found in self._found]
        if self.policy.world_size > 1:
            shared = torch.tensor(self.peaks, dtype=torch.float64, device=self.policy.device)
            dist.all_reduce(shared, op=dist.ReduceOp.MAX)
            self.peaks = shared.tolist()
        for found in self._found:
            found.clear()
        self.idle = [0 if peak else idle + 1 for peak, idle in zip(self.peaks, self.idle, strict=True)]
        step = self.policy.num_steps
        self._before = None
        if step < 3 or step % COMPARED_EVERY == 0:
            self._before = [_sample(master).clone() for master in masters(self.policy)]
        return next((name for name, peak in zip(self.names, self.peaks, strict=True) if peak == math.inf), None)

    def after_step(self) -> dict[str, float]:
        """`gradient/dead`: parameters without gradient for long. `update/lost`: of the sampled weights that the
        optimizer moves (their averaged gradient is not 0), the share that is stored unchanged. All ranks must call it.
        """
        metrics = {"gradient/dead": float(len(self.dead()))}
        if self._before is not None:
            state = base_optimizer(self.policy).state
            counts = torch.zeros(2, dtype=torch.float64)
            for master, before in zip(masters(self.policy), self._before, strict=True):
                average = state.get(master, {}).get("exp_avg")
                if average is None:
                    continue
                moves = _sample(average) != 0
                lost = moves & (_sample(master) == before)
                counts += torch.stack([lost.sum(), moves.sum()]).double().cpu()
            if self.policy.world_size > 1:
                counts = counts.to(self.policy.device)
                dist.all_reduce(counts)
            lost, moving = counts.tolist()
            if moving:
                metrics["update/lost"] = lost / moving
            self._before = None
        return metrics

    def dead(self) -> list[str]:
        """Names of the parameters that have had no gradient for DEAD_AFTER updates."""
        return [name for name, idle in zip(self.names, self.idle, strict=True) if idle >= DEAD_AFTER]

    def largest(self, number: int = 3) -> list[str]:
        """Names of the parameters with the largest gradients of the last update."""
        order = sorted(range(len(self.peaks)), key=lambda index: -self.peaks[index])
        return [self.names[index] for index in order[:number]]


def plain_gradient_norm(policy: PolicyEngine) -> float | None:
    """The norm of the whole gradient without ZeRO; None with it, where DeepSpeed says it after the step."""
    if policy.zero_stage > 0:
        return None
    return float(nn.utils.get_total_norm([p.grad for p in policy.policy.parameters() if p.grad is not None]))


def require_finite(policy: PolicyEngine, norm: float, first_bad: str | None = None) -> None:
    """Raises where the gradient norm is not finite, or a parameter is named whose gradient is not."""
    if first_bad is None and math.isfinite(norm):
        return
    parameter = f"parameter {first_bad}, " if first_bad is not None else ""
    raise NumericsError(
        f"the gradient norm is {norm if first_bad is None else 'not finite'}",
        f"{parameter}step {policy.num_steps + 1}, rank {policy.rank}",
        "go on from the last checkpoint with a lower train.lr or precision float32; look at the last rollouts",
    )


def _largest(extremes: list[float]) -> float:
    """The largest size of the micro-batches' extremes: 0 where there are none, inf where one is not finite."""
    return max((abs(extreme) if math.isfinite(extreme) else math.inf for extreme in extremes), default=0.0)


def _sample(tensor: Tensor) -> Tensor:
    """At most SAMPLED evenly spaced elements, as a view."""
    flat = tensor.detach().view(-1)
    return flat[:: max(1, flat.numel() // SAMPLED)]
