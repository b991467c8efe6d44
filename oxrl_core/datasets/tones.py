"""Sounds of one tone or two, real WAV files made on the spot, with a question and an answer of one word."""

from __future__ import annotations

import base64
import hashlib
import io
import math
import struct
import wave

from oxrl_core.datasets.base import dataset
from oxrl_core.types import Row

SPLITS = ("train", "eval")
RATE = 16_000  # samples a second
SECONDS = 0.5
QUESTION = "Is the tone low, high, rising or falling?"
# From the first to the last frequency, as factors of the base.
MELODIES = {"low": (1.0, 1.0), "high": (4.0, 4.0), "rising": (1.0, 4.0), "falling": (4.0, 1.0)}
BASES = tuple(220 + 11 * step for step in range(24))  # Hz
HELD_OUT = 4


@dataset("tones", splits=SPLITS)
def tones(split: str, seed: int) -> list[Row]:
    """Half a second of a tone in a WAV file and whether it is low, high, rising or falling. 72 rows, 24 held out."""
    return [
        {"prompt": QUESTION, "completion": word, "answer": word, "audio": sound} for sound, word, _ in _sounds(split)
    ]


@dataset("tones-pairs", splits=SPLITS)
def tones_pairs(split: str, seed: int) -> list[Row]:
    """The sounds of tones, the right word preferred to a wrong one."""
    return [
        {"prompt": QUESTION, "chosen": word, "rejected": wrong, "audio": sound} for sound, word, wrong in _sounds(split)
    ]


def _sounds(split: str) -> list[tuple[str, str, str]]:
    """Sounds in base64 with the right word and a wrong one, in an order that never changes."""
    found: list[tuple[bytes, tuple[str, str, str]]] = []
    for index, base in enumerate(BASES):
        if (index % HELD_OUT == 0) != (split == "eval"):
            continue
        for word, (first, last) in MELODIES.items():
            key = hashlib.sha256(f"{base} {word}".encode()).digest()
            others = [other for other in MELODIES if other != word]
            sound = base64.b64encode(wav(base * first, base * last)).decode()
            found.append((key, (sound, word, others[key[0] % len(others)])))
    return [sound for _, sound in sorted(found)]


def wav(first: float, last: float) -> bytes:
    """A WAV file of a tone that goes evenly from the first frequency to the last."""
    count = int(RATE * SECONDS)
    samples: list[int] = []
    phase = 0.0
    for index in range(count):
        samples.append(round(12_000 * math.sin(phase)))
        phase += 2 * math.pi * (first + (last - first) * index / count) / RATE
    file = io.BytesIO()
    with wave.open(file, "wb") as opened:
        opened.setnchannels(1)
        opened.setsampwidth(2)
        opened.setframerate(RATE)
        opened.writeframes(struct.pack(f"<{count}h", *samples))
    return file.getvalue()
