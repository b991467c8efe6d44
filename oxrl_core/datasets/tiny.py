"""Built-in tasks that a miniature model learns in a minute, made on the spot.

Which prompts are held out is a matter of the prompt alone, never of the seed: supervised training with one seed and RL
with another must not see each other's test.
"""

from __future__ import annotations

import hashlib
import itertools

from oxrl_core.datasets.base import dataset
from oxrl_core.types import Row

HELD_OUT = 6  # one prompt of six is in the eval split

SPLITS = ("train", "eval")


@dataset("reverse3", splits=SPLITS)
def reverse3(split: str, seed: int) -> list[Row]:
    """Reverse three digits of 0-5: "420>" -> "024". 180 rows to train on, 36 held out."""
    # With the digits 0-4 there are 100 prompts to train on: the model knows those by heart and fails the held-out ones.
    return _rows("012345", 3, split, reverse=True)


@dataset("reverse4", splits=SPLITS)
def reverse4(split: str, seed: int) -> list[Row]:
    """Reverse four digits of 0-4: "4201>" -> "1024". 521 rows to train on, 104 held out."""
    return _rows("01234", 4, split, reverse=True)


@dataset("copy3", splits=SPLITS)
def copy3(split: str, seed: int) -> list[Row]:
    """Copy three digits: "927>" -> "927". 834 rows to train on, 166 held out."""
    return _rows("0123456789", 3, split, reverse=False)


def _rows(digits: str, length: int, split: str, *, reverse: bool) -> list[Row]:
    """The prompts of a split, in an order that looks random and never changes."""
    words = ["".join(word) for word in itertools.product(digits, repeat=length)]
    words.sort(key=lambda word: hashlib.sha256(f"{word}>".encode()).digest())
    num_eval = len(words) // HELD_OUT
    chosen = words[:num_eval] if split == "eval" else words[num_eval:]
    return [_row(word, word[::-1] if reverse else word) for word in chosen]


def _row(word: str, answer: str) -> Row:
    return {"prompt": f"{word}>", "completion": answer, "answer": answer}
