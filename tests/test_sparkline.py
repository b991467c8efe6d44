from __future__ import annotations

from oxrl_core.sparkline import sparkline


def test_it_rises_with_its_values() -> None:
    assert sparkline([0.0, 1.0]) == "▁█"
    assert sparkline([float(i) for i in range(8)]) == "▁▂▃▄▅▆▇█"
    assert sparkline([0.5, 0.5]) == "▄▄"
    assert sparkline([]) == ""
    assert sparkline([None, float("nan"), 1.0, 2.0]) == "▁█"


def test_many_values_are_averaged_into_its_width() -> None:
    line = sparkline([float(i) for i in range(1000)], width=10)
    assert len(line) == 10
    assert line[0] == "▁"
    assert line[-1] == "█"
    assert list(line) == sorted(line)


def test_a_fixed_scale_makes_lines_comparable_and_holds_what_leaves_it() -> None:
    assert sparkline([0.0, 0.5, 1.0], low=0, high=1) == "▁▅█"
    assert sparkline([0.1] * 500, 20, low=0, high=1) == "▁" * 20
    assert sparkline([-1.0, 2.0, 0.99], blocks="_.-:=+*#", low=0, high=1) == "_##"
