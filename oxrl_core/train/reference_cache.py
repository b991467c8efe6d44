"""Log-probs of the reference for all pairs of a run, measured once before step 0 and kept in the run directory.

A preference loss asks the reference for the same numbers in every epoch. Once they are known its weights can leave the
memory, and a run that is resumed reads the very same numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from oxrl_core.errors import DataError
from oxrl_core.types import PairExample

if TYPE_CHECKING:
    from oxrl_core.train.learner import Learner

Sums = tuple[float, float]


class ReferenceCache:
    """The sums of chosen and rejected log-probs under the reference, by the tokens of the pair."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sums: dict[str, Sums] = {}

    def fill(
        self, learner: Learner, pairs: Sequence[PairExample], held_out: Sequence[PairExample]
    ) -> list[PairExample]:
        """The held-out pairs with their sums; those of `pairs` are known from now on, and the reference is freed."""
        known = self._read() if learner.is_coordinator else {}
        known = learner.share(known)
        missing = {key_of(pair): pair for pair in [*pairs, *held_out] if key_of(pair) not in known}
        measured = learner.reference_sums(list(missing.values())) if missing else []
        self.sums = known | dict(zip(missing, measured, strict=True))
        if missing and learner.is_coordinator:
            self._write()
        learner.drop_reference()
        return self.attach(held_out)

    def attach(self, pairs: Sequence[PairExample]) -> list[PairExample]:
        """The pairs with what the reference said of them."""
        attached: list[PairExample] = []
        for pair in pairs:
            sums = self.sums.get(key_of(pair))
            if sums is None:
                raise DataError(
                    "a pair was not among the training rows when the reference was asked",
                    where=str(self.path),
                    next_step="the training data changed under the run: start a new one, or restore the data",
                )
            attached.append(replace(pair, ref_logprobs=(sums[0], sums[1])))
        return attached

    def _read(self) -> dict[str, Sums]:
        if not self.path.exists():
            return {}
        return {key: (chosen, rejected) for key, (chosen, rejected) in json.loads(self.path.read_text()).items()}

    def _write(self) -> None:
        unfinished = self.path.with_suffix(".tmp")
        unfinished.write_text(json.dumps(self.sums))
        unfinished.replace(self.path)


def key_of(pair: PairExample) -> str:
    """A name for the tokens of a pair and its media."""
    tokens: list[object] = [pair.chosen.token_ids, pair.rejected.token_ids, sum(pair.chosen.completion_mask)]
    for one in pair.chosen.media:  # the same question about another picture is another pair
        tokens.append(hashlib.sha256(one.data).hexdigest() if one.data else one.path)
    return hashlib.sha256(json.dumps(tokens).encode()).hexdigest()[:32]
