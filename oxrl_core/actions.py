"""Actions of a robot as tokens and back, in plain Python: uniform bins, and FAST (DCT, rounding, byte-pair encoding).

A chunk is `horizon` steps of `dimensions` numbers. A code turns it into the numbers of action tokens; in a text token k
is written `<act{k}>`, a token of its own in a vocabulary that models/actions.py has made room in. Both first scale
each dimension so that the 1st and the 99th percentile of the demonstrations become -1 and 1, and cut what is outside:
one wild demonstration would take the resolution from all others. These numbers are kept with the model (actions.json).

`uniform` (RT-2, arXiv:2307.15818; OpenVLA, arXiv:2406.09246): each number by itself, one of `bins` bins of equal width.
A number comes back within half a bin.

`fast` (arXiv:2501.09747): the discrete cosine transform of each dimension over the chunk, times `scale`, rounded; low
frequencies of all dimensions first; then byte-pair encoding, whose merges are learned from the demonstrations. Smooth
chunks become few tokens. The root of the summed squared errors of a dimension is at most sqrt(horizon) / (2 scale).
This is the paper's method with merges of one's own, not its published universal tokenizer.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

from oxrl_core.errors import DataError

Chunk = list[list[float]]  # (horizon, dimensions)
Scheme = Literal["uniform", "fast"]
TOKEN = re.compile(r"<act(\d{1,5})>")
LOWEST, HIGHEST = 0.01, 0.99


@dataclass(frozen=True)
class ActionCode:
    """How chunks of one kind become tokens, and the statistics that it needs."""

    scheme: Scheme
    horizon: int
    low: tuple[float, ...]  # of each dimension: what is scaled to -1
    high: tuple[float, ...]
    bins: int = 256
    scale: float = 10.0
    merges: tuple[tuple[int, int], ...] = ()

    @property
    def dimensions(self) -> int:
        """Numbers of one step."""
        return len(self.low)

    @property
    def largest(self) -> int:
        """The largest rounded coefficient of a chunk within [-1, 1], by its sign either way."""
        return math.ceil(self.scale * math.sqrt(self.horizon))

    @property
    def num_tokens(self) -> int:
        """Action tokens that there are."""
        return self.bins if self.scheme == "uniform" else 2 * self.largest + 1 + len(self.merges)

    def encode(self, chunk: Chunk) -> list[int]:
        """The token numbers of a chunk."""
        if len(chunk) != self.horizon or any(len(step) != self.dimensions for step in chunk):
            raise DataError(
                f"a chunk of {len(chunk)} steps is none of {self.horizon} steps with {self.dimensions} numbers",
                "actions",
                "cut the demonstrations into chunks of that size",
            )
        if not all(math.isfinite(value) for step in chunk for value in step):
            raise DataError("an action is not a finite number", "actions", "remove the demonstration")
        scaled = [[self._scaled(value, at) for at, value in enumerate(step)] for step in chunk]
        if self.scheme == "uniform":
            return [min(int((value + 1) / 2 * self.bins), self.bins - 1) for step in scaled for value in step]
        by_dimension = [cosine_transform([step[at] for step in scaled]) for at in range(self.dimensions)]
        flat = [
            round(self.scale * part[order]) + self.largest for order in range(self.horizon) for part in by_dimension
        ]
        return merged(flat, self.merges, 2 * self.largest + 1)

    def decode(self, tokens: Sequence[int]) -> Chunk | None:
        """The chunk that the token numbers say; None where they say none."""
        if any(not 0 <= token < self.num_tokens for token in tokens):
            return None
        if self.scheme == "uniform":
            flat = [(token + 0.5) / self.bins * 2 - 1 for token in tokens]
        else:
            base = 2 * self.largest + 1
            flat = [(value - self.largest) / self.scale for value in unmerged(tokens, self.merges, base)]
        if len(flat) != self.horizon * self.dimensions:
            return None
        steps = [flat[start : start + self.dimensions] for start in range(0, len(flat), self.dimensions)]
        if self.scheme == "fast":
            by_dimension = [inverse_cosine_transform([step[at] for step in steps]) for at in range(self.dimensions)]
            steps = [[part[time] for part in by_dimension] for time in range(self.horizon)]
        return [[self._unscaled(value, at) for at, value in enumerate(step)] for step in steps]

    def write(self, chunk: Chunk) -> str:
        """The chunk as text."""
        return "".join(f"<act{token}>" for token in self.encode(chunk))

    def read(self, text: str) -> Chunk | None:
        """The chunk that a text is; None of a text that is anything else, or more."""
        text = text.strip()
        if TOKEN.sub("", text):
            return None
        return self.decode([int(number) for number in TOKEN.findall(text)])

    def as_dict(self) -> dict[str, Any]:
        """All of it, for a JSON file or a row."""
        return asdict(self)

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> ActionCode:
        """The code of `as_dict`; JSON knows no tuples."""
        lists: dict[str, Any] = {name: tuple(facts[name]) for name in ("low", "high")}
        lists["merges"] = tuple((first, second) for first, second in facts["merges"])
        return cls(**{**facts, **lists})

    def _scaled(self, value: float, at: int) -> float:
        width = self.high[at] - self.low[at]
        return max(-1.0, min(1.0, 2 * (value - self.low[at]) / width - 1)) if width > 0 else 0.0

    def _unscaled(self, value: float, at: int) -> float:
        return self.low[at] + (value + 1) / 2 * (self.high[at] - self.low[at])


def code_of(
    chunks: Sequence[Chunk], scheme: Scheme, *, bins: int = 256, scale: float = 10.0, num_merges: int = 32
) -> ActionCode:
    """The code for chunks like these: their percentiles, and for `fast` the merges that shorten them most."""
    columns = [[step[at] for chunk in chunks for step in chunk] for at in range(len(chunks[0][0]))]
    low, high = (tuple(percentile(column, share) for column in columns) for share in (LOWEST, HIGHEST))
    plain = ActionCode(scheme, len(chunks[0]), low, high, bins, scale)
    if scheme == "uniform":
        return plain
    merges = learn_merges([plain.encode(chunk) for chunk in chunks], 2 * plain.largest + 1, num_merges)
    return ActionCode(scheme, plain.horizon, low, high, bins, scale, merges)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of them lies, between two of them by proportion."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    at = int(place)
    after = ordered[min(at + 1, len(ordered) - 1)]
    return ordered[at] + (place - at) * (after - ordered[at])


def cosine_transform(values: Sequence[float]) -> list[float]:
    """The orthonormal DCT-II: it keeps the sum of squares."""
    count = len(values)
    return [
        _weight(order, count)
        * sum(value * math.cos(math.pi * (at + 0.5) * order / count) for at, value in enumerate(values))
        for order in range(count)
    ]


def inverse_cosine_transform(parts: Sequence[float]) -> list[float]:
    """The values whose `cosine_transform` these are."""
    count = len(parts)
    return [
        sum(
            _weight(order, count) * part * math.cos(math.pi * (at + 0.5) * order / count)
            for order, part in enumerate(parts)
        )
        for at in range(count)
    ]


def _weight(order: int, count: int) -> float:
    return math.sqrt((1 if order == 0 else 2) / count)


def learn_merges(rows: Sequence[Sequence[int]], base: int, most: int) -> tuple[tuple[int, int], ...]:
    """Up to `most` pairs that become one token, each the commonest pair of what those before it leave."""
    left = [list(row) for row in rows]
    merges: list[tuple[int, int]] = []
    while len(merges) < most:
        counts = Counter(pair for row in left for pair in pairwise(row))
        if not counts:
            break
        pair = max(counts, key=lambda found: (counts[found], found))
        if counts[pair] < 2:
            break
        left = [_joined(row, pair, base + len(merges)) for row in left]
        merges.append(pair)
    return tuple(merges)


def merged(tokens: Sequence[int], merges: Sequence[tuple[int, int]], base: int) -> list[int]:
    """The tokens with each pair joined, in the order in which the pairs were learned."""
    row = list(tokens)
    for number, pair in enumerate(merges):
        row = _joined(row, pair, base + number)
    return row


def unmerged(tokens: Sequence[int], merges: Sequence[tuple[int, int]], base: int) -> list[int]:
    """The tokens before any were joined."""
    row = list(tokens)
    for number in reversed(range(len(merges))):
        row = [part for token in row for part in (merges[number] if token == base + number else (token,))]
    return row


def _joined(row: Sequence[int], pair: tuple[int, int], token: int) -> list[int]:
    joined: list[int] = []
    at = 0
    while at < len(row):
        if tuple(row[at : at + 2]) == pair:
            joined.append(token)
            at += 2
        else:
            joined.append(row[at])
            at += 1
    return joined
