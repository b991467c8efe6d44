"""What ships in registry/examples: a short recipe for every algorithm, the contributed ones in their own group."""

from __future__ import annotations

import pytest

from oxrl_core.algorithms.base import all_algorithms
from oxrl_core.config.load import load_config
from oxrl_core.config.sources import list_recipes, main_names
from oxrl_core.errors import ConfigError

RECIPES = {recipe.name: recipe for recipe in list_recipes()}


@pytest.mark.parametrize("name", sorted(all_algorithms()))
def test_every_algorithm_has_a_recipe_of_its_name_under_twenty_lines(name: str) -> None:
    recipe = RECIPES[name]
    assert load_config(name).config.algorithm.name == name
    assert len(recipe.path.read_text(encoding="utf-8").splitlines()) < 20
    is_contributed = ".contrib." in all_algorithms()[name].loss.__module__
    assert recipe.group == ("contrib" if is_contributed else "")


def test_no_two_recipes_have_one_name() -> None:
    assert len(RECIPES) == len(list_recipes())


def test_a_contributed_recipe_is_found_by_its_bare_name_and_a_message_names_the_main_ones_only() -> None:
    assert load_config("robust_dpo").config.algorithm.name == "robust_dpo"
    with pytest.raises(ConfigError) as wrong:
        load_config("robust_dpp")
    assert "Did you mean 'robust_dpo'" in str(wrong.value)
    assert "robust_dpo" not in wrong.value.next_step and "demo" in wrong.value.next_step
    assert "oxrl examples --all" in wrong.value.next_step
    assert set(main_names(list_recipes())) < set(RECIPES)
