"""What signatures say a configuration may set."""

from __future__ import annotations

import functools
import urllib.parse
from types import FunctionType
from typing import TYPE_CHECKING, Any, Literal

import pytest

from oxrl_core.errors import ConfigError
from oxrl_core.parameters import Fraction, parameters_of

if TYPE_CHECKING:
    from torch import Tensor


def loss(signals: Tensor, *, beta: Fraction = 0.1, kind: Literal["a", "b"] = "a", extra=None) -> Tensor:  # type: ignore[no-untyped-def]
    return signals


def required(signals: Tensor, *, path: str, beta: float = 0.1) -> Tensor:
    return signals


def test_parameters_are_read_without_the_types_of_the_first_argument() -> None:
    parameters = parameters_of(loss, "a loss")
    assert parameters.defaults == {"beta": 0.1, "kind": "a", "extra": None}
    assert parameters.takes() == "beta (default 0.1), kind (default a), extra (default None)"


@pytest.mark.parametrize(("given", "value"), [({"beta": "1e-2"}, 0.01), ({"beta": 1}, 1.0), ({}, 0.1)])
def test_values_are_taken_as_yaml_gives_them(given: dict[str, Any], value: float) -> None:
    assert parameters_of(loss, "a loss").fill(given, section="s", owner="loss")["beta"] == value


def test_a_decorated_function_is_read_by_the_names_of_its_own_module() -> None:
    # urllib.parse stands for the module of a decorator: it knows no Fraction.
    wrapper = functools.wraps(loss)(FunctionType((lambda *_, **__: None).__code__, vars(urllib.parse)))
    assert parameters_of(wrapper, "a loss").types == parameters_of(loss, "a loss").types


def test_a_parameter_without_type_takes_anything() -> None:
    filled = parameters_of(loss, "a loss").fill({"extra": [1]}, section="s", owner="loss")
    assert filled == {"beta": 0.1, "kind": "a", "extra": [1]}


@pytest.mark.parametrize("given", [{"beta": 2.0}, {"beta": True}, {"kind": "c"}, {"bete": 0.1}])
def test_what_does_not_fit_is_refused_with_its_key(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"s\.{next(iter(given))}"):
        parameters_of(loss, "a loss").fill(given, section="s", owner="loss")


def test_a_required_parameter_is_allowed_where_it_is_asked_for_and_then_needed() -> None:
    with pytest.raises(ConfigError, match="'path' of a loss must be keyword-only, with a default"):
        parameters_of(required, "a loss")
    parameters = parameters_of(required, "a reward", may_require=True)
    assert parameters.check({"beta": 0.2}, section="s", owner="required") == {"beta": 0.2}
    with pytest.raises(ConfigError, match=r"required needs s\.path"):
        parameters.fill({"beta": 0.2}, section="s", owner="required")
    assert parameters.fill({"path": "x"}, section="s", owner="required") == {"path": "x", "beta": 0.1}
