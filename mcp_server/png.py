"""A small line plot as PNG, of the standard library alone: a plotting library would cost the server 60 MB and a second.

The picture has few colours and large flat areas, so that it is about 2 kB: cheap for a model to look at.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

WIDTH, HEIGHT = 480, 240
LEFT, RIGHT, TOP, BOTTOM = 58, 8, 8, 20
COLOURS = ("blue", "red", "green", "orange", "purple")
_PALETTE = (
    (255, 255, 255), (20, 20, 20), (215, 215, 215),
    (31, 119, 180), (214, 39, 40), (44, 140, 44), (235, 120, 10), (130, 80, 170),
)  # fmt: skip
_WHITE, _BLACK, _GREY, _FIRST = 0, 1, 2, 3
# Each row of a character is three bits.
_FONT = {
    "0": (7, 5, 5, 5, 7), "1": (2, 6, 2, 2, 7), "2": (7, 1, 7, 4, 7), "3": (7, 1, 7, 1, 7), "4": (5, 5, 7, 1, 1),
    "5": (7, 4, 7, 1, 7), "6": (7, 4, 7, 5, 7), "7": (7, 1, 2, 2, 2), "8": (7, 5, 7, 5, 7), "9": (7, 5, 7, 1, 7),
    ".": (0, 0, 0, 0, 2), "-": (0, 0, 7, 0, 0), "+": (0, 2, 7, 2, 0), "e": (0, 7, 5, 6, 7),
}  # fmt: skip
_SCALE = 2

Point = tuple[float, float]


def line_plot(series: Sequence[Sequence[Point]]) -> bytes:
    """The PNG of up to five lines in the order of COLOURS, each by (step, value), with the ends of both axes."""
    points = [point for line in series for point in line]
    assert points, "a plot needs a point"
    low, high = min(y for _, y in points), max(y for _, y in points)
    if low == high:
        low, high = low - (abs(low) or 1.0) * 0.1, high + (abs(high) or 1.0) * 0.1
    first, last = min(x for x, _ in points), max(x for x, _ in points)
    span = (last - first) or 1.0
    canvas = [bytearray(WIDTH) for _ in range(HEIGHT)]

    def place(point: Point) -> tuple[int, int]:
        x = LEFT + (point[0] - first) / span * (WIDTH - LEFT - RIGHT - 1)
        y = TOP + (high - point[1]) / (high - low) * (HEIGHT - TOP - BOTTOM - 1)
        return round(x), round(y)

    for share in (0.0, 0.5, 1.0):
        y = place((first, low + share * (high - low)))[1]
        canvas[y][LEFT : WIDTH - RIGHT] = bytes([_GREY]) * (WIDTH - RIGHT - LEFT)
        text = f"{low + share * (high - low):.3g}"
        _write(canvas, text, LEFT - 6 - _width(text), min(max(y - 5, 0), HEIGHT - 12))
    for y in range(TOP, HEIGHT - BOTTOM):
        canvas[y][LEFT] = _BLACK
    _write(canvas, f"{first:g}", LEFT, HEIGHT - 13)
    _write(canvas, f"{last:g}", WIDTH - RIGHT - _width(f"{last:g}"), HEIGHT - 13)
    for index, line in enumerate(series):
        colour = _FIRST + index % len(COLOURS)
        places = [place(point) for point in sorted(line)]
        for start, end in zip(places, places[1:] or places, strict=False):
            _draw(canvas, start, end, colour)
    return _png(canvas)


def _width(text: str) -> int:
    return 4 * _SCALE * len(text)


def _write(canvas: list[bytearray], text: str, left: int, top: int) -> None:
    for index, character in enumerate(text):
        for row, bits in enumerate(_FONT.get(character, ())):
            for column in range(3):
                if bits >> (2 - column) & 1:
                    x, y = left + (4 * index + column) * _SCALE, top + row * _SCALE
                    for line in canvas[y : y + _SCALE]:
                        line[x : x + _SCALE] = bytes([_BLACK]) * _SCALE


def _draw(canvas: list[bytearray], start: tuple[int, int], end: tuple[int, int], colour: int) -> None:
    """A line of two pixels' height."""
    steps = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
    for step in range(steps + 1):
        x = start[0] + round((end[0] - start[0]) * step / steps)
        y = start[1] + round((end[1] - start[1]) * step / steps)
        for row in (y, y + 1):
            if row < HEIGHT and x < WIDTH:
                canvas[row][x] = colour


def _png(canvas: Sequence[bytearray]) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + bytes(row[i] << 4 | row[i + 1] for i in range(0, WIDTH, 2)) for row in canvas)
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 4, 3, 0, 0, 0)  # 4 bits a pixel, by palette
    palette = b"".join(bytes(colour) for colour in _PALETTE)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"PLTE", palette)
        + chunk(b"IDAT", zlib.compress(rows, 9))
        + chunk(b"IEND", b"")
    )
