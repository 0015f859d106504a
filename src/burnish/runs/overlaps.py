"""Overlaps between training and evaluation sets: the content of `leakage.json`."""

from dataclasses import dataclass
from typing import Literal

OverlapKind = Literal["exact", "normalised", "13-gram"]


@dataclass(frozen=True, slots=True)
class ComparedSet:
    """A set of texts that was checked for leakage, with its hash.

    `sha256` covers its rows in order, one line of JSON each, as `evaluation.contamination` writes
    them. `leaked` counts the items of an evaluation set that are in the training data: 0 means
    clean. It is None for training sets.
    """

    name: str
    rows: int
    sha256: str
    leaked: int | None = None


@dataclass(frozen=True, slots=True)
class Overlap:
    """An overlap of two sets of one kind; each item and row counts under its strongest kind.

    `items` of the set `judging` occur in `rows` of the set `seen`; `examples` has up to five pairs
    of ids, (item, row).
    """

    seen: str
    judging: str
    kind: OverlapKind
    items: int
    rows: int
    examples: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Leakage:
    """The compared training sets (`learnt`) and evaluation sets (`judging`), and their overlaps."""

    learnt: tuple[ComparedSet, ...]
    judging: tuple[ComparedSet, ...]
    overlaps: tuple[Overlap, ...]

    @property
    def leaked(self) -> dict[str, int]:
        """Number of items in the training data by evaluation set, without clean sets."""
        return {one.name: one.leaked for one in self.judging if one.leaked}
