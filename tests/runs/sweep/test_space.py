"""The space of a sweep: grids, seeded draws, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from oxrl_core.errors import ConfigError
from oxrl_core.runs.sweep.space import points, read_axes


def test_a_grid_is_every_combination_in_order() -> None:
    axes = read_axes(["a.b=[1,2]", "c=[x,y]", "d=5"])
    assert points(axes, None, 0) == [
        {"a.b": 1, "c": "x", "d": 5},
        {"a.b": 1, "c": "y", "d": 5},
        {"a.b": 2, "c": "x", "d": 5},
        {"a.b": 2, "c": "y", "d": 5},
    ]


def test_draws_are_the_same_for_a_seed_and_stay_in_their_ranges() -> None:
    axes = read_axes(["lr=log:1e-6..1e-4", "drop=uniform:0..0.3", "k=int:1..8", "n=[a,b]"])
    drawn = points(axes, 200, 7)
    assert drawn == points(axes, 200, 7) != points(axes, 200, 8)
    assert len({repr(point) for point in drawn}) == 200
    assert all(1e-6 <= point["lr"] <= 1e-4 and 0 <= point["drop"] <= 0.3 for point in drawn)
    assert {point["k"] for point in drawn} == set(range(1, 9)) and {point["n"] for point in drawn} == {"a", "b"}
    # Even in the logarithm: half of them lie below the geometric middle, not half of the range.
    low = sum(math.log10(point["lr"]) < -5 for point in drawn)
    assert 70 <= low <= 130


def test_more_draws_than_a_grid_has_are_the_grid() -> None:
    assert len(points(read_axes(["a=[1,2,3]", "k=int:1..2"]), 50, 0)) == 6


def test_a_file_says_the_same_as_arguments(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("train:\n  lr: log:1e-6..1e-4\n  betas: [[0.9, 0.95], [0.9, 0.99]]\nrollout.group_size: [4, 8]\n")
    assert read_axes(["seed=1"], file) == read_axes(
        ["train.lr=log:1e-6..1e-4", "train.betas=[[0.9,0.95],[0.9,0.99]]", "rollout.group_size=[4,8]", "seed=1"]
    )


@pytest.mark.parametrize(
    ("texts", "samples", "reason"),
    [
        (["lr"], None, "not key=values"),
        (["lr="], None, "not key=values"),
        (["lr=[1]", "lr=[2]"], None, "given twice"),
        (["lr=[]"], None, "has no values"),
        (["lr=log:0..1"], 3, "not a range"),
        (["lr=log:1..1"], 3, "not a range"),
        (["lr=uniform:a..b"], 3, "not a range"),
        (["lr=log:1e-6..1e-4"], None, "a grid needs values"),
        (["k=int:1..1e9"], 3, "too many values"),
        (["a=int:1..100", "b=int:1..100"], None, "10000 trials"),
        (["a=[1,2]"], 0, "0 draws"),
    ],
)
def test_what_is_no_space_is_refused_with_a_reason(texts: list[str], samples: int | None, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        points(read_axes(texts), samples, 0)
