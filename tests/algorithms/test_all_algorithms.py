"""What holds for every loss of the catalogue, whatever it sees."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import yaml
from signals_factory import (
    MAKERS,
    MASK,
    PER_TOKEN,
    ROWS,
    TOKENS,
    gradients,
    make_signals,
    pad,
    select,
    tensors_of,
    with_gradient,
)

from oxrl_core.algorithms.base import LESSON_OF_SIGNALS, all_algorithms, check_params, get_algorithm
from oxrl_core.config.schema import AlgorithmConfig

ALL = sorted(all_algorithms())
SELF_EXPLAINING = {"beta", "clip_low", "clip_high", "ratio", "temperature"}  # the same thing in every loss
GARBAGE = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e30, -1e30])


def test_the_factory_makes_every_type_of_signals() -> None:
    assert set(MAKERS) == set(LESSON_OF_SIGNALS)


@pytest.mark.parametrize("name", ALL)
def test_a_loss_says_what_it_is_where_it_is_from_and_what_its_parameters_are(name: str) -> None:
    entry = get_algorithm(name)
    assert entry.summary.endswith("."), "the first line of the docstring says what is returned, as a sentence"
    assert entry.paper
    undocumented = [param for param, default in entry.params.items() if not is_documented(entry.loss, param, default)]
    assert undocumented == [], "these parameters are in no line of the docstring"


def is_documented(loss: Callable[..., Any], param: str, default: object) -> bool:
    """Whether the docstring has the parameter's name (of a family, its last word in backticks), or what it may be."""
    text = inspect.getdoc(loss) or ""
    words = set(re.findall(r"\w+", text))
    last_word = param.rsplit("_", 1)[-1]
    return (
        param in SELF_EXPLAINING
        or param.removeprefix("use_") in words
        or f"`{last_word}`" in text
        or (isinstance(default, str) and default in words)
    )


@pytest.mark.parametrize("name", ALL)
def test_parameters_come_back_from_yaml_as_they_are(name: str) -> None:
    entry = get_algorithm(name)
    assert check_params(entry, {}) == entry.params
    assert check_params(entry, yaml.safe_load(yaml.safe_dump(entry.params))) == entry.params


@pytest.mark.parametrize("name", ALL)
def test_every_parameter_can_be_set_in_the_section_algorithm(name: str) -> None:
    # A parameter with the name of one of the section's own fields would never reach the loss.
    params = get_algorithm(name).params
    assert set(params) & set(AlgorithmConfig.model_fields) == set()
    assert AlgorithmConfig.model_validate({"name": name, **params}).params == params


@pytest.mark.parametrize("name", ALL)
def test_values_are_unreduced_finite_float32_and_the_same_every_time(name: str) -> None:
    entry = get_algorithm(name)
    signals = make_signals(entry)
    values = entry.loss(signals, **entry.params)
    rows = int(MASK.sum()) if entry.signals == "Distributions" else ROWS
    assert values.shape == ((ROWS, TOKENS) if entry.signals in PER_TOKEN else (rows,))
    assert values.dtype == torch.float32
    assert torch.isfinite(values).all()
    assert torch.equal(values, entry.loss(make_signals(entry), **entry.params))


@pytest.mark.parametrize("name", ALL)
def test_the_gradient_is_finite_and_not_zero_and_leaves_masked_tokens_alone(name: str) -> None:
    entry = get_algorithm(name)
    signals = make_signals(entry)
    found = gradients(signals, entry.loss(signals, **entry.params))
    assert all(torch.isfinite(gradient).all() for gradient in found.values())
    assert any((gradient != 0).any() for gradient in found.values())
    if entry.signals in PER_TOKEN:
        assert (found["logprobs"][~MASK] == 0).all()


@pytest.mark.parametrize("name", [name for name in ALL if get_algorithm(name).signals in PER_TOKEN])
def test_no_garbage_in_masked_columns_reaches_a_value_or_a_gradient(name: str) -> None:
    entry = get_algorithm(name)
    clean = make_signals(entry)
    outside = ~clean.completion_mask
    count = int(outside.sum())
    garbage = {
        name: value.detach().masked_scatter(outside, GARBAGE.repeat(count)[:count])
        for name, value in tensors_of(clean).items()
        if value.dtype == torch.float32
    }
    dirty = with_gradient(replace(clean, **garbage))
    expected, found = (entry.loss(signals, **entry.params) for signals in (clean, dirty))
    assert torch.isfinite(found).all()
    assert torch.equal(found[~outside], expected[~outside])
    assert torch.equal(gradients(dirty, found)["logprobs"], gradients(clean, expected)["logprobs"])


@pytest.mark.parametrize("name", [name for name in ALL if get_algorithm(name).signals != "Distributions"])
def test_a_value_moves_with_its_row_and_does_not_depend_on_the_company(name: str) -> None:
    entry = get_algorithm(name)
    signals = make_signals(entry)
    values = entry.loss(signals, **entry.params)
    found = gradients(signals, values)
    for rows in (torch.tensor([2, 0, 3, 1]), torch.tensor([1]), torch.tensor([3, 0])):
        part = select(signals, rows)
        part_values = entry.loss(part, **entry.params)
        assert torch.allclose(part_values, values[rows], atol=1e-6)
        for leaf, gradient in gradients(part, part_values).items():
            assert torch.allclose(gradient, found[leaf][rows], atol=1e-6)


@pytest.mark.parametrize("name", [name for name in ALL if get_algorithm(name).signals == "Distributions"])
def test_a_value_of_a_token_does_not_depend_on_the_chunk_that_it_is_in(name: str) -> None:
    entry = get_algorithm(name)
    signals = make_signals(entry)
    values = entry.loss(signals, **entry.params)
    rows = torch.tensor([4, 0, 7])
    assert torch.allclose(entry.loss(select(signals, rows), **entry.params), values[rows], atol=1e-6)
    assert entry.loss(select(signals, rows[:0]), **entry.params).shape == (0,)


@pytest.mark.parametrize("name", ALL)
def test_padding_changes_nothing(name: str) -> None:
    entry = get_algorithm(name)
    signals = make_signals(entry)
    wider = pad(signals, 5, filler=float("nan"))
    values, wide_values = (entry.loss(each, **entry.params) for each in (signals, wider))
    found, wide_found = gradients(signals, values), gradients(wider, wide_values)
    if entry.signals in PER_TOKEN:
        wide_values = wide_values[:, :TOKENS]
    assert torch.allclose(values, wide_values, atol=1e-6)
    for leaf, gradient in found.items():
        wide_gradient = wide_found[leaf][:, : gradient.shape[1]] if gradient.ndim == 2 else wide_found[leaf]
        assert torch.allclose(gradient, wide_gradient, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_rows_without_a_token_to_train_on_are_finite_and_teach_no_token(name: str) -> None:
    entry = get_algorithm(name)
    signals = make_signals(entry, mask=torch.zeros_like(MASK))
    values = entry.loss(signals, **entry.params)
    assert torch.isfinite(values).all()
    found = gradients(signals, values)
    assert all(torch.isfinite(gradient).all() for gradient in found.values())
    if entry.signals in PER_TOKEN:
        assert all((gradient == 0).all() for gradient in found.values())
