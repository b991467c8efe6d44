"""The catalogue of losses. A loss function's signature says everything: its first argument's type names the signals
that it sees (and so the data and models it needs), its keyword-only arguments are its YAML keys with their defaults.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError

from oxrl_core.discover import Catalogue, summary_of
from oxrl_core.errors import ConfigError
from oxrl_core.suggest import did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["rl", "sl"]
KIND_OF_SIGNALS: dict[str, Kind] = {"Tokens": "sl", "Rollouts": "rl"}

# Ranges of parameters, for the signatures of losses.
Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]

LossFunction = TypeVar("LossFunction", bound=Callable[..., "Tensor"])


@dataclass(frozen=True)
class Algorithm:
    """One loss and what its signature says about it."""

    name: str
    loss: Callable[..., Tensor]
    kind: Kind
    signals: str  # the type of the loss's first argument: "Tokens" or "Rollouts"
    params: dict[str, Any]  # default of every keyword-only argument
    paper: str = ""
    summary: str = ""
    param_types: dict[str, Any] = field(default_factory=dict[str, Any], repr=False)


def describe(name: str, loss: Callable[..., Tensor], paper: str = "") -> Algorithm:
    """The algorithm that a loss function's signature describes."""
    where = f"{loss.__module__}.{getattr(loss, '__qualname__', name)}"
    arguments = list(inspect.signature(loss).parameters.values())
    if not arguments:
        raise ConfigError("a loss takes its signals as first argument", where, "see oxrl_core/algorithms/supervised.py")
    annotation = arguments[0].annotation
    signals = str(annotation if isinstance(annotation, str) else getattr(annotation, "__name__", annotation))
    signals = signals.rsplit(".", 1)[-1]
    if signals not in KIND_OF_SIGNALS:
        raise ConfigError(
            f"the first argument of a loss is annotated with the signals it sees, not with {signals!r}",
            where,
            f"annotate it with one of: {', '.join(KIND_OF_SIGNALS)}",
        )
    params: dict[str, Any] = {}
    for argument in arguments[1:]:
        if argument.kind is not inspect.Parameter.KEYWORD_ONLY or argument.default is inspect.Parameter.empty:
            raise ConfigError(
                f"the argument {argument.name!r} of a loss must be keyword-only, with a default",
                where,
                f"write `*, {argument.name}: float = ...`",
            )
        params[argument.name] = argument.default
    return Algorithm(
        name=name,
        loss=loss,
        kind=KIND_OF_SIGNALS[signals],
        signals=signals,
        params=params,
        paper=paper,
        summary=summary_of(loss),
        param_types=_types_of(loss, list(params)),
    )


def _types_of(loss: Callable[..., Tensor], names: list[str]) -> dict[str, Any]:
    """The evaluated annotations of the named arguments only: those of the tensors exist for the type checker alone."""
    annotations = {name: note for name, note in inspect.get_annotations(loss).items() if name in names}
    holder = type("Parameters", (), {"__annotations__": annotations})
    return get_type_hints(holder, globalns=getattr(loss, "__globals__", {}), include_extras=True)


_catalogue: Catalogue[Algorithm] = Catalogue("algorithm", "oxrl_core.algorithms", describe)


def algorithm(name: str, paper: str = "") -> Callable[[LossFunction], LossFunction]:
    """A decorator that registers a loss function under a name and returns it unchanged."""

    def register(loss: LossFunction) -> LossFunction:
        _catalogue.add(name, loss, describe(name, loss, paper))
        return loss

    return register


def get_algorithm(name: str) -> Algorithm:
    """The algorithm of that name, or of your own loss at `package.module:function`."""
    return _catalogue.get(name)


def all_algorithms() -> dict[str, Algorithm]:
    """Every built-in algorithm, by name."""
    return _catalogue.all()


def check_params(algorithm: Algorithm, params: Mapping[str, Any]) -> dict[str, Any]:
    """Every parameter of the loss with its value: the given ones, checked, and the defaults of the others."""
    takes = ", ".join(f"{name} (default {value})" for name, value in algorithm.params.items()) or "no parameters"
    for name in params:
        if name not in algorithm.params:
            raise ConfigError(
                f"algorithm.{name} is not a parameter of {algorithm.name}.{did_you_mean(name, list(algorithm.params))}",
                where=f"algorithm.{name}",
                next_step=f"{algorithm.name} takes: {takes}",
            )
    checked = dict(algorithm.params)
    for name, value in params.items():
        adapter: TypeAdapter[Any] = TypeAdapter(algorithm.param_types.get(name, type(algorithm.params[name])))
        try:
            # Strict, so that `true` is no number; but YAML reads 1e-4 as text, and that is meant as a number.
            checked[name] = adapter.validate_python(value, strict=not isinstance(value, str))
        except ValidationError as error:
            raise ConfigError(
                f"algorithm.{name} = {value!r}: {error.errors()[0]['msg']}",
                where=f"algorithm.{name}",
                next_step=f"{algorithm.name} takes: {takes}",
            ) from error
    return checked
