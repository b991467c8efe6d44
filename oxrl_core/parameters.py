"""What a signature says a configuration may set: the keyword-only arguments of a function are its YAML keys."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from textwrap import shorten
from typing import Annotated, Any, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError

from oxrl_core.errors import ConfigError
from oxrl_core.suggest import did_you_mean

LONGEST_DEFAULT = 40  # characters in a message; some defaults are whole texts

# Ranges, for signatures.
Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
AtLeastOne = Annotated[float, Field(ge=1)]
AboveOne = Annotated[float, Field(gt=1)]
Text = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class Parameters:
    """The keyword-only arguments of a function."""

    defaults: dict[str, Any]
    types: dict[str, Any] = field(default_factory=dict[str, Any])
    required: tuple[str, ...] = ()  # these have no default

    @property
    def names(self) -> list[str]:
        """Every parameter, in the order of the signature; the required ones first."""
        return [*self.required, *self.defaults]

    def shown(self) -> dict[str, str]:
        """What a catalogue says of each: its default, or that it is required."""
        words = {name: shorten(str(value), LONGEST_DEFAULT) for name, value in self.defaults.items()}
        return dict.fromkeys(self.required, "required") | words

    def takes(self) -> str:
        """All of them in words, for a message."""
        words = [f"{name} ({'' if name in self.required else 'default '}{word})" for name, word in self.shown().items()]
        return ", ".join(words) or "no parameters"

    def check(self, given: Mapping[str, Any], *, section: str, owner: str) -> dict[str, Any]:
        """The given values, checked: of a parameter that exists, of its type and in its range."""
        checked: dict[str, Any] = {}
        for name, value in given.items():
            where = f"{section}.{name}"
            next_step = f"{owner} takes: {self.takes()}"
            if name not in self.names:
                near = did_you_mean(name, self.names)
                raise ConfigError(f"{where} is not a parameter of {owner}.{near}", where, next_step)
            default = self.defaults.get(name)
            kind = self.types.get(name, Any if default is None else type(default))
            adapter: TypeAdapter[Any] = TypeAdapter(kind)
            try:
                # Strict, so that `true` is no number; but YAML reads 1e-4 as text, and that is meant as a number.
                checked[name] = adapter.validate_python(value, strict=not isinstance(value, str))
            except ValidationError as error:
                raise ConfigError(f"{where} = {value!r}: {error.errors()[0]['msg']}", where, next_step) from error
        return checked

    def fill(self, given: Mapping[str, Any], *, section: str, owner: str) -> dict[str, Any]:
        """Every parameter with its value: the given ones, checked, and the defaults of the others."""
        checked = self.check(given, section=section, owner=owner)
        missing = [name for name in self.required if name not in checked]
        if missing:
            raise ConfigError(
                f"{owner} needs {', '.join(f'{section}.{name}' for name in missing)}",
                where=f"{section}.{missing[0]}",
                next_step=f"{owner} takes: {self.takes()}",
            )
        return self.defaults | checked


def parameters_of(
    function: Callable[..., Any], what: str, *, may_require: bool = False, num_inputs: int = 1
) -> Parameters:
    """The parameters of a function: every argument after its inputs.

    `what` names its kind in errors ("a loss"); `may_require` allows parameters without a default.
    """
    defaults: dict[str, Any] = {}
    required: list[str] = []
    for argument in list(inspect.signature(function).parameters.values())[num_inputs:]:
        has_default = argument.default is not inspect.Parameter.empty
        if argument.kind is not inspect.Parameter.KEYWORD_ONLY or not (has_default or may_require):
            with_default = "" if may_require else ", with a default"
            raise ConfigError(
                f"the argument {argument.name!r} of {what} must be keyword-only{with_default}",
                where=f"{function.__module__}.{getattr(function, '__qualname__', what)}",
                next_step=f"write `*, {argument.name}: float = ...`",
            )
        if has_default:
            defaults[argument.name] = argument.default
        else:
            required.append(argument.name)
    return Parameters(defaults, _types_of(function, [*required, *defaults]), tuple(required))


def _types_of(function: Callable[..., Any], names: list[str]) -> dict[str, Any]:
    """The evaluated annotations of the named arguments only: those of tensors exist for the type checker alone."""
    function = inspect.unwrap(function)  # a decorated one means what its own module's names say
    annotations = {name: note for name, note in inspect.get_annotations(function).items() if name in names}
    holder = type("Parameters", (), {"__annotations__": annotations})
    return get_type_hints(holder, globalns=getattr(function, "__globals__", {}), include_extras=True)
