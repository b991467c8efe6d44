"""Pictures of a table with a hand and a target, and the actions that bring the hand there, as action tokens."""

from __future__ import annotations

import base64
from functools import cache
from typing import Annotated

from pydantic import Field

from oxrl_core.actions import ActionCode, Scheme, code_of
from oxrl_core.datasets.base import dataset
from oxrl_core.datasets.lazy import Endless
from oxrl_core.datasets.shapes import png
from oxrl_core.simulation import new_table
from oxrl_core.types import Row

DEMONSTRATIONS = 256  # from which the code of the actions is made, whatever the seed: it stays the same code
PROMPT = "Move the blue hand to the red target."


@dataset("reaching", splits=("train", "eval"))
def reaching(
    split: str,
    seed: int,
    *,
    scheme: Scheme = "uniform",
    bins: Annotated[int, Field(ge=2, le=4096)] = 256,
    scale: Annotated[float, Field(gt=0, le=100)] = 10.0,
    merges: Annotated[int, Field(ge=0, le=1024)] = 32,
    epoch_rows: Annotated[int, Field(ge=1)] = 1000,
) -> Endless:
    """Simulated reaching: a 56 x 56 PNG, four moves of an expert as action tokens. `scheme` uniform (`bins`) or fast
    (`scale`, `merges`)."""
    code = reaching_code(scheme, bins, scale, merges)

    def make(index: int) -> Row:
        key = f"reaching/{seed}/{split}/{index}"
        while True:
            table = new_table(key)
            written = code.write(table.expert())
            if table.after(code.read(written) or []).is_reached:
                break
            key += "+"  # cut to the percentiles or rounded, these actions would miss the target
        return {
            "prompt": PROMPT,
            "completion": written,
            "image": base64.b64encode(png(table.picture())).decode(),
            "hand": list(table.hand),
            "target": list(table.target),
            "actions": code.as_dict(),
        }

    return Endless(make, epoch_rows)


@cache
def reaching_code(scheme: Scheme, bins: int, scale: float, merges: int) -> ActionCode:
    """The code made from the demonstrations."""
    chunks = [new_table(f"reaching/demonstrations/{index}").expert() for index in range(DEMONSTRATIONS)]
    return code_of(chunks, scheme, bins=bins, scale=scale, num_merges=merges)
