"""Batches in length buckets, in an order that seed and step alone decide."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from burnish.models.branches import Row

# Batches sorted by length together: enough that padding nearly vanishes, few enough that the
# order of the rows stays random.
_BUCKET = 16


@dataclass(frozen=True)
class Batches:
    """The rows of every optimizer step of a run.

    Args:
        rows: all training rows.
        batch_size: rows in one forward pass.
        accumulation: forward passes an optimizer step.
        epochs: passes over the rows; a fraction ends within one.
        seed: decides the order.
    """

    rows: Sequence[Row]
    batch_size: int
    accumulation: int
    epochs: float
    seed: int

    @property
    def steps(self) -> int:
        return max(1, math.ceil(self.epochs * self._steps_an_epoch))

    def step(self, number: int) -> list[list[Row]]:
        """The forward passes of optimizer step `number` (0-based)."""
        epoch, within = divmod(number, self._steps_an_epoch)
        order = _order(
            tuple(len(row.tokens) for row in self.rows), self.batch_size, self.seed + epoch
        )
        first = within * self.accumulation
        return [
            [self.rows[index] for index in batch]
            for batch in order[first : first + self.accumulation]
        ]

    @property
    def _steps_an_epoch(self) -> int:
        return math.ceil(math.ceil(len(self.rows) / self.batch_size) / self.accumulation)


@cache
def _order(lengths: tuple[int, ...], size: int, seed: int) -> list[list[int]]:
    """Batches of row indices for one epoch: shuffled, sorted within buckets, shuffled again."""
    chance = random.Random(seed)
    order = list(range(len(lengths)))
    chance.shuffle(order)
    batches: list[list[int]] = []
    for start in range(0, len(order), size * _BUCKET):
        bucket = sorted(order[start : start + size * _BUCKET], key=lambda index: lengths[index])
        batches += [bucket[at : at + size] for at in range(0, len(bucket), size)]
    chance.shuffle(batches)
    return batches
