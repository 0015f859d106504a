"""What sets of texts share: the record of it that a run keeps in `leakage.json`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

OverlapKind = Literal["exact", "normalised", "13-gram"]


@dataclass(frozen=True, slots=True)
class ComparedSet:
    """A set of texts that was looked through for leakage, and what proves which one it was.

    `sha256` is of its rows in order, one line of JSON each, as `evaluation.leakage` writes them.
    `leaked` counts the items of a judging set that are held by what is learnt: 0 says that it is
    clean. It is None for what is learnt.
    """

    name: str
    rows: int
    sha256: str
    leaked: int | None = None


@dataclass(frozen=True, slots=True)
class Overlap:
    """What two sets share in one way, each item and row counted under the strongest of its ways.

    `items` of the set `judging` are held by `rows` of the set `seen`; `examples` are up to five
    pairs of ids, that of the item first.
    """

    seen: str
    judging: str
    kind: OverlapKind
    items: int
    rows: int
    examples: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Leakage:
    """Whether what judges was learnt before: the sets that were compared, and what they share."""

    learnt: tuple[ComparedSet, ...]
    judging: tuple[ComparedSet, ...]
    overlaps: tuple[Overlap, ...]

    @property
    def leaked(self) -> dict[str, int]:
        """Items that were learnt, by the name of the judging set; clean sets are not named."""
        return {found.name: found.leaked for found in self.judging if found.leaked}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Leakage":
        """Reads back what `dataclasses.asdict` gave."""
        return cls(
            learnt=tuple(ComparedSet(**found) for found in row["learnt"]),
            judging=tuple(ComparedSet(**found) for found in row["judging"]),
            overlaps=tuple(
                Overlap(**{**found, "examples": tuple(map(tuple, found["examples"]))})
                for found in row["overlaps"]
            ),
        )
