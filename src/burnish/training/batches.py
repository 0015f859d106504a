"""Batches in length buckets, in an order that seed and step alone decide."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from burnish.training.objectives.base import Item

# Batches sorted by length together: enough that padding nearly vanishes, few enough that the
# order of the items stays random.
_BUCKET = 16


@dataclass
class Batches:
    """The items of every optimizer step of a run.

    Args:
        sets: training items by name of their data set; a batch holds items of one set, of like
            size.
        batch_size: items in one forward pass.
        accumulation: forward passes an optimizer step.
        epochs: passes over the items; a fraction ends within one.
        seed: decides the order.
        shares: share of an epoch's items that each set gives; by their sizes if None. A set that
            gives fewer than it has goes on in the next epoch where it stopped.
        beside: items put beside those of the steps, over and over.
        beside_each: how many of them a step reads.
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
        """The forward passes of optimizer step `number` (0-based)."""
        epoch, within = divmod(number, self._steps_an_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, self._order(epoch)
        first = within * self.accumulation
        passes = self._epoch[1][first : first + self.accumulation]
        beside = self._drawn(self.beside, number * self.beside_each, self.beside_each)
        return [[*items, *beside[place :: len(passes)]] for place, items in enumerate(passes)]

    def add(self, name: str, items: Sequence[Item]) -> None:
        """Adds a data set, which gives all of its items to every epoch."""
        share = len(items) / (sum(map(len, self.sets.values())) + len(items))
        shares = {other: part * (1 - share) for other, part in (self.shares or {}).items()}
        self.sets = {**self.sets, name: items}
        self.shares = shares | {name: share}

    def counts(self) -> dict[str, int]:
        """Items that each set gives to an epoch, at least one."""
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
        """The epoch's batches: items drawn, sorted within buckets, batches shuffled."""
        batches: list[list[Any]] = []
        for name, count in self.counts().items():
            drawn = self._drawn(self.sets[name], epoch * count, count)
            for start in range(0, count, self.batch_size * _BUCKET):
                bucket = drawn[start : start + self.batch_size * _BUCKET]
                bucket.sort(key=lambda item: item.size)
                batches += [
                    bucket[at : at + self.batch_size]
                    for at in range(0, len(bucket), self.batch_size)
                ]
        random.Random(self.seed + epoch).shuffle(batches)
        return batches

    def _drawn(self, items: Sequence[Item], start: int, count: int) -> list[Any]:
        """Places start to start + count of an endless row of shuffled passes over the items."""
        drawn: list[Any] = []
        while len(drawn) < count:
            turn, within = divmod(start + len(drawn), len(items))
            order = list(items)
            random.Random(self.seed + turn).shuffle(order)
            drawn += order[within : within + count - len(drawn)]
        return drawn


class Chosen(Batches):
    """Some steps of a run, as a run of its own."""

    def __init__(self, whole: Batches, numbers: Sequence[int]) -> None:
        self._whole, self._numbers = whole, numbers

    @property
    def steps(self) -> int:
        return len(self._numbers)

    def step(self, number: int) -> list[list[Any]]:
        return self._whole.step(self._numbers[number])


def temperature_shares(sizes: Mapping[str, int], temperature: float) -> dict[str, float]:
    """Shares in proportion to size ** (1 / temperature): 1 is by size, large is alike for all.

    Source: Raffel et al. 2020 (arXiv 1910.10683), section 3.5.2, without their size limit.
    """
    most = max(sizes.values())  # of shares of the largest no power is too great
    powers = {name: (size / most) ** (1 / temperature) for name, size in sizes.items()}
    return {name: power / sum(powers.values()) for name, power in powers.items()}
