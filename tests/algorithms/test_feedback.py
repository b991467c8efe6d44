"""Two recipes with names of their own, whose loss is another's."""

from __future__ import annotations

from oxrl_core.algorithms.base import all_algorithms, get_algorithm


def test_the_recipes_take_the_parameters_of_their_loss_and_say_what_they_are():
    for name in ("rlhf", "rlaif"):
        algorithm, loss = get_algorithm(name), get_algorithm("sgrpo")
        assert algorithm.loss is loss.loss and algorithm.params == loss.params and algorithm.lesson == "advantages"
        assert "sgrpo on the" in algorithm.summary and algorithm.paper != loss.paper


def test_the_path_of_the_loss_means_the_loss_itself():
    assert get_algorithm("oxrl_core.algorithms.policy_gradient:sgrpo").name == "sgrpo"
    assert {"sgrpo", "rlhf", "rlaif"} <= set(all_algorithms())
