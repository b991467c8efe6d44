"""A small simulated table seen from above: a hand reaches for a target. Plain Python, the same everywhere.

Places are pairs of numbers in the unit square. An action moves the hand by (dx, dy), at most `LONGEST` either way; a
chunk of `HORIZON` actions is one attempt.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

HORIZON = 4
LONGEST = 0.4
RADIUS = 0.1  # nearer than this the target is reached
SIDE = 56  # pixels of the picture: a multiple of the patches of every family
NEAREST = 0.25  # what hand and target are apart at least before the first move
GROUND, TARGET, HAND = bytes((235, 235, 235)), bytes((220, 40, 40)), bytes((40, 70, 220))
TARGET_SIZE, HAND_SIZE = 6, 4  # pixels from the middle to the edge

Place = tuple[float, float]


@dataclass(frozen=True)
class Table:
    """Where the hand and the target are."""

    hand: Place
    target: Place

    @property
    def distance(self) -> float:
        """How far the hand is from the target."""
        return math.dist(self.hand, self.target)

    @property
    def is_reached(self) -> bool:
        """Whether the hand is at the target."""
        return self.distance < RADIUS

    def after(self, actions: Sequence[Sequence[float]]) -> Table:
        """The table after these actions: each is cut to the longest move, and the hand stays on the table."""
        x, y = self.hand
        for dx, dy in actions:
            x = min(max(x + min(max(dx, -LONGEST), LONGEST), 0.0), 1.0)
            y = min(max(y + min(max(dy, -LONGEST), LONGEST), 0.0), 1.0)
        return Table((x, y), self.target)

    def expert(self) -> list[list[float]]:
        """The actions of someone who sees the target: straight to it, slow at both ends."""
        speeds = [math.sin(math.pi * (step + 0.5) / HORIZON) for step in range(HORIZON)]
        shares = [speed / sum(speeds) for speed in speeds]
        return [[share * (self.target[at] - self.hand[at]) for at in (0, 1)] for share in shares]

    def picture(self) -> list[bytes]:
        """Rows of RGB pixels from above: a red target, a blue hand on it, x to the right, y down."""
        (hand_x, hand_y), (target_x, target_y) = ((x * (SIDE - 1), y * (SIDE - 1)) for x, y in (self.hand, self.target))
        rows: list[bytes] = []
        for y in range(SIDE):
            row = bytearray(GROUND * SIDE)
            for middle_x, middle_y, size, paint in (
                (target_x, target_y, TARGET_SIZE, TARGET),
                (hand_x, hand_y, HAND_SIZE, HAND),
            ):
                half = math.sqrt(max(size * size - (y - middle_y) ** 2, 0.0))
                if half:
                    first, last = max(math.ceil(middle_x - half), 0), min(math.floor(middle_x + half), SIDE - 1)
                    row[3 * first : 3 * (last + 1)] = paint * (last - first + 1)
            rows.append(bytes(row))
        return rows


def new_table(key: str) -> Table:
    """A table that follows from the key alone."""
    draw = random.Random(key)
    while True:
        hand, target = ((0.1 + 0.8 * draw.random(), 0.1 + 0.8 * draw.random()) for _ in range(2))
        if math.dist(hand, target) >= NEAREST:
            return Table(hand, target)
