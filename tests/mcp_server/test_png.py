"""The picture of a plot, read as a PNG and pixel by pixel."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from mcp_server.png import HEIGHT, LEFT, WIDTH, line_plot

BLUE, RED = (31, 119, 180), (214, 39, 40)


def pixels(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.verify()
    return Image.open(io.BytesIO(data)).convert("RGB")


def columns_of(image: Image.Image, colour: tuple[int, int, int]) -> dict[int, float]:
    """For each column with the colour the mean height of it, from the top."""
    found: dict[int, list[int]] = {}
    for x in range(image.width):
        for y in range(image.height):
            if image.getpixel((x, y)) == colour:
                found.setdefault(x, []).append(y)
    return {x: sum(ys) / len(ys) for x, ys in found.items()}


def test_a_rising_line_rises_and_a_falling_one_falls() -> None:
    steps = range(100)
    data = line_plot([[(s, s / 100) for s in steps], [(s, 1 - s / 100) for s in steps]])
    assert len(data) < 4000, "cheap to look at"
    image = pixels(data)
    assert image.size == (WIDTH, HEIGHT) == (480, 240)
    rising, falling = columns_of(image, BLUE), columns_of(image, RED)
    assert rising[LEFT + 20] > rising[WIDTH // 2] > rising[WIDTH - 20]
    assert falling[LEFT + 20] < falling[WIDTH // 2] < falling[WIDTH - 20]


@pytest.mark.parametrize("points", [[(3.0, 0.5)], [(0.0, 0.0), (1.0, 0.0)], [(0.0, -1e30), (1e9, 1e30)]])
def test_single_points_flat_lines_and_huge_numbers_are_pictures_too(points: list[tuple[float, float]]) -> None:
    assert columns_of(pixels(line_plot([points])), BLUE)
