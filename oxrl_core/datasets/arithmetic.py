"""Sums without end, made on the spot, easy to verify: for RL that never sees a prompt twice by design."""

from __future__ import annotations

import hashlib
import random
from typing import Annotated, Literal

from pydantic import Field

from oxrl_core.datasets.base import dataset
from oxrl_core.datasets.lazy import Endless
from oxrl_core.types import Row

HELD_OUT = 6  # one prompt of six is in the eval split, whatever the seed
Count = Annotated[int, Field(ge=1)]
OPERATORS = {"add": "+", "subtract": "-", "multiply": "*"}


@dataset("arithmetic", splits=("train", "eval"))
def arithmetic(
    split: str,
    seed: int,
    *,
    operation: Literal["add", "subtract", "multiply", "mixed"] = "add",
    terms: Annotated[int, Field(ge=2, le=8)] = 2,
    digits: Annotated[int, Field(ge=1, le=12)] = 2,
    epoch_rows: Count = 10_000,
) -> Endless:
    """Sums without end: "12+7=" -> "19". `operation`, `terms`, `digits` of each, `epoch_rows` until an epoch counts."""
    names = list(OPERATORS) if operation == "mixed" else [operation]
    signs = [OPERATORS[name] for name in names]

    def make(index: int) -> Row:
        # A generator of its own for each row: any row is made without those before it.
        draw = random.Random(f"arithmetic/{seed}/{split}/{index}")
        while True:
            text = _text(draw, signs, terms, digits)
            if _is_held_out(text) == (split == "eval"):
                answer = str(_value(text))
                return {"prompt": f"{text}=", "completion": answer, "answer": answer}

    return Endless(make, epoch_rows)


def _text(draw: random.Random, signs: list[str], terms: int, digits: int) -> str:
    """Numbers of at most so many digits, every length as likely, with signs between them."""
    parts: list[str] = []
    for term in range(terms):
        if term:
            parts.append(draw.choice(signs))
        parts.append(str(draw.randrange(10 ** draw.randint(1, digits))))
    return "".join(parts)


def _value(text: str) -> int:
    """The value of the sum, products first."""
    total = 0
    for part in text.replace("-", "+-").split("+"):
        product = 1
        for factor in part.split("*"):
            product *= int(factor)
        total += product
    return total


def _is_held_out(text: str) -> bool:
    return hashlib.sha256(text.encode()).digest()[0] % HELD_OUT == 0
