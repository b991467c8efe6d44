"""Pictures of one coloured shape each, real PNG files made on the spot, with a question and an answer of one word."""

from __future__ import annotations

import base64
import hashlib
import struct
import zlib

from oxrl_core.datasets.base import dataset
from oxrl_core.types import Row

SPLITS = ("train", "eval")
SIDE = 56  # pixels: a multiple of the patches of every family
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (40, 70, 220),
    "yellow": (235, 210, 50),
}
SHAPES = ("square", "circle", "triangle")
QUESTIONS = {"colour": "What colour is it?", "shape": "What shape is it?"}
NUM_PLACES = 8
HELD_OUT = 4  # one picture of four is in the eval split


@dataset("shapes", splits=SPLITS)
def shapes(split: str, seed: int) -> list[Row]:
    """One coloured shape in a 56 x 56 PNG and "What colour is it?" or "What shape is it?". 144 rows, 48 held out."""
    return [
        {"prompt": QUESTIONS[about], "completion": answer, "answer": answer, "image": picture}
        for picture, about, answer, _ in _questions(split)
    ]


@dataset("shapes-pairs", splits=SPLITS)
def shapes_pairs(split: str, seed: int) -> list[Row]:
    """The pictures and questions of shapes, the right word preferred to a wrong one of the same kind."""
    return [
        {"prompt": QUESTIONS[about], "chosen": answer, "rejected": wrong, "image": picture}
        for picture, about, answer, wrong in _questions(split)
    ]


def _questions(split: str) -> list[tuple[str, str, str, str]]:
    """Pictures in base64 with what is asked, the answer and a wrong one, in an order that never changes."""
    found: list[tuple[bytes, tuple[str, str, str, str]]] = []
    for colour in COLOURS:
        for shape in SHAPES:
            for place in range(NUM_PLACES):
                if (place % HELD_OUT == 0) != (split == "eval"):
                    continue
                picture = base64.b64encode(png(draw(colour, shape, place))).decode()
                for about, answer, words in (("colour", colour, list(COLOURS)), ("shape", shape, list(SHAPES))):
                    key = _hash(f"{colour} {shape} {place} {about}")
                    others = [word for word in words if word != answer]
                    found.append((key, (picture, about, answer, others[key[0] % len(others)])))
    return [question for _, question in sorted(found)]


def draw(colour: str, shape: str, place: int) -> list[bytes]:
    """Rows of RGB pixels: the shape on light grey; where it stands and how large it is follow from `place`."""
    digest = _hash(f"{shape} {place}")
    radius = 12 + digest[0] % 9
    middle_x, middle_y = (radius + 1 + value % (SIDE - 2 * radius - 2) for value in digest[1:3])
    ground, paint = bytes((235, 235, 235)), bytes(COLOURS[colour])
    rows: list[bytes] = []
    for y in range(SIDE):
        row = (paint if _is_inside(shape, x - middle_x, y - middle_y, radius) else ground for x in range(SIDE))
        rows.append(b"".join(row))
    return rows


def _is_inside(shape: str, x: int, y: int, radius: int) -> bool:
    if shape == "circle":
        return x * x + y * y <= radius * radius
    if shape == "square":
        return max(abs(x), abs(y)) <= radius * 7 // 8
    return -radius <= y <= radius and 2 * abs(x) <= y + radius  # a triangle with its point at the top


def png(rows: list[bytes]) -> bytes:
    """A PNG file of rows of RGB pixels."""
    header = struct.pack(">IIBBBBB", len(rows[0]) // 3, len(rows), 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows), 9)  # each row says that it is stored unfiltered
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
