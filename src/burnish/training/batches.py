"""Batches in length buckets; their order depends only on the seed and the step."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from burnish.training.objectives.base import Item

# Batches in a bucket: enough that there is hardly any padding, few enough that the order of the
# items stays random.
_BUCKET = 16


@dataclass
class Batches:
    """The items of every optimizer step of a run.

    Args:
        sets: training items by data set; a batch has items of one set and of similar size.
        batch_size: items in one forward pass.
        accumulation: forward passes per optimizer step.
        epochs: passes over the items; may be a fraction.
        seed: determines the order.
        shares: share of each set in an epoch; by size if None. A set that gives only a part of its
            items to an epoch continues with the others in the next one.
        beside: additional items, repeated as often as needed.
        beside_each: additional items per step.
    """

    sets: Mapping[str, Sequence[Item]]
    batch_size: int
    accumulation: int
    epochs: float
    seed: int
    shares: Mapping[str, float] | None = None
    beside: Sequence[Item] = ()
    beside_each: int = 0
    _epoch: tuple[int, list[list[Any]]] | None = field(default=None, init=False, repr=False)

    @property
    def steps(self) -> int:
        return max(1, math.ceil(self.epochs * self._steps_an_epoch))

    def step(self, number: int) -> list[list[Any]]:
        """Return the items of each forward pass of optimizer step `number` (from 0)."""
        epoch, within = divmod(number, self._steps_an_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, self._order(epoch)
        first = within * self.accumulation
        passes = self._epoch[1][first : first + self.accumulation]
        beside = self._drawn(self.beside, number * self.beside_each, self.beside_each)
        return [[*items, *beside[index :: len(passes)]] for index, items in enumerate(passes)]

    def add(self, name: str, items: Sequence[Item]) -> None:
        """Add a data set, all of whose items are in every epoch."""
        share = len(items) / (sum(map(len, self.sets.values())) + len(items))
        shares = {other: part * (1 - share) for other, part in (self.shares or {}).items()}
        self.sets = {**self.sets, name: items}
        self.shares = shares | {name: share}

    def counts(self) -> dict[str, int]:
        """Return the number of items of each set in an epoch, at least one."""
        sizes = {name: len(items) for name, items in self.sets.items()}
        if self.shares is None:
            return sizes
        total = sum(sizes.values())
        return {name: max(1, round(total * self.shares[name])) for name in sizes}

    @property
    def _steps_an_epoch(self) -> int:
        batches = sum(math.ceil(count / self.batch_size) for count in self.counts().values())
        return math.ceil(batches / self.accumulation)

    def _order(self, epoch: int) -> list[list[Any]]:
        """Draw the epoch's items, sort them by size within buckets, and shuffle the batches."""
        batches: list[list[Any]] = []
        for name, count in self.counts().items():
            drawn = self._drawn(self.sets[name], epoch * count, count)
            for start in range(0, count, self.batch_size * _BUCKET):
                bucket = drawn[start : start + self.batch_size * _BUCKET]
                bucket.sort(key=lambda item: item.size)
                batches += [
                    bucket[first : first + self.batch_size]
                    for first in range(0, len(bucket), self.batch_size)
                ]
        random.Random(self.seed + epoch).shuffle(batches)
        return batches

    def _drawn(self, items: Sequence[Item], start: int, count: int) -> list[Any]:
        """Return items `start` to `start + count` of endless shuffled passes over the items."""
        drawn: list[Any] = []
        while len(drawn) < count:
            turn, within = divmod(start + len(drawn), len(items))
            order = list(items)
            random.Random(self.seed + turn).shuffle(order)
            drawn += order[within : within + count - len(drawn)]
        return drawn


class Chosen(Batches):
    """The batches of some steps of a run only."""

    def __init__(self, whole: Batches, numbers: Sequence[int]) -> None:
        self._whole, self._numbers = whole, numbers

    @property
    def steps(self) -> int:
        return len(self._numbers)

    def step(self, number: int) -> list[list[Any]]:
        return self._whole.step(self._numbers[number])


def temperature_shares(sizes: Mapping[str, int], temperature: float) -> dict[str, float]:
    """Return shares in proportion to size ** (1 / temperature): 1 is by size, infinity uniform.

    Source: Raffel et al. 2020 (arXiv 1910.10683), section 3.5.2, without their size limit.
    """
    most = max(sizes.values())  # the powers of size / most cannot overflow
    powers = {name: (size / most) ** (1 / temperature) for name, size in sizes.items()}
    return {name: power / sum(powers.values()) for name, power in powers.items()}
