"""The reference: the policy as it came, or as it was at the last refresh. It never has a gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from oxrl_core.errors import ConfigError
from oxrl_core.models.logprobs import PolicyModel
from oxrl_core.models.lora import (
    ADAPTER,
    REFERENCE_ADAPTER,
    adapter_parameters,
    add_reference_adapter,
    copies,
    merged_state_dict,
    reference_adapter,
)

if TYPE_CHECKING:
    import peft

Gather = Callable[[Sequence[nn.Parameter]], AbstractContextManager[object]]


class WholeReference:
    """A second model, whole on every rank."""

    def __init__(self, load: Callable[[], PolicyModel]) -> None:
        self._load = load
        self.model = load()
        self.is_refreshed = False

    def reset(self) -> None:
        """Makes it the policy as it came."""
        if self.is_refreshed:
            self.model = self._load()
            self.is_refreshed = False

    @torch.no_grad()
    def refresh(self, policy: PolicyModel, gather: Gather) -> None:
        """Makes it the present policy; every rank must call it."""
        present = dict(policy.base.named_parameters())
        for name, parameter in self.model.base.named_parameters():
            with gather([present[name]]):
                parameter.copy_(present[name])
        self.is_refreshed = True

    def weights(self, gather: Gather, keep: bool) -> dict[str, Tensor]:
        """CPU copies of its weights, under the names that the transformers model has."""
        return merged_state_dict(self.model.model, keep=keep)

    def tensors(self, gather: Gather, keep: bool) -> dict[str, Tensor]:
        """What save() writes of it."""
        return copies(dict(self.model.base.named_parameters())) if keep else {}

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], gather_to_write: Gather) -> None:
        """Puts back what `tensors` gave."""
        for name, parameter in self.model.base.named_parameters():
            parameter.copy_(tensors[name])
        self.is_refreshed = True


class AdapterReference:
    """No second model: the base without adapters, and after a refresh with the adapters as they were then.

    The copy of the adapters is made before ZeRO shards the parameters, so that it is sharded as they are.
    """

    def __init__(self, model: peft.PeftModel, *, can_refresh: bool) -> None:
        self.model = model
        self.is_refreshed = False
        self.can_refresh = can_refresh
        if can_refresh:
            add_reference_adapter(model)

    def reset(self) -> None:
        """Makes it the policy as it came."""
        self.is_refreshed = False

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it the policy's model computes what the reference does."""
        with reference_adapter(self.model) if self.is_refreshed else self.model.disable_adapter():
            yield

    @torch.no_grad()
    def refresh(self, gather: Gather, gather_to_write: Gather) -> None:
        """Makes it the present policy; every rank must call it."""
        self._require_copy()
        present = adapter_parameters(self.model, ADAPTER)
        for name, parameter in adapter_parameters(self.model, REFERENCE_ADAPTER).items():
            with gather([present[name]]), gather_to_write([parameter]):
                parameter.copy_(present[name])
        self.is_refreshed = True

    def weights(self, gather: Gather, keep: bool) -> dict[str, Tensor]:
        """CPU copies of its weights, adapters merged; every rank must call it."""
        return merged_state_dict(self.model, gather, keep, REFERENCE_ADAPTER if self.is_refreshed else None)

    def tensors(self, gather: Gather, keep: bool) -> dict[str, Tensor]:
        """What save() writes of it; every rank must call it."""
        return copies(adapter_parameters(self.model, REFERENCE_ADAPTER), gather, keep)

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], gather_to_write: Gather) -> None:
        """Puts back what `tensors` gave; every rank must call it."""
        self._require_copy()
        for name, parameter in adapter_parameters(self.model, REFERENCE_ADAPTER).items():
            with gather_to_write([parameter]):
                parameter.copy_(tensors[name])
        self.is_refreshed = True

    def _require_copy(self) -> None:
        if not self.can_refresh:
            raise ConfigError("there is no reference to refresh", "algorithm.reference", "build it with a reference")
