"""Splits by hash: seeded, stratified by label, groups whole, and the same in any row order."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from burnish.chat import Example


def split(
    examples: Sequence[Example], shares: Sequence[float], seed: int
) -> tuple[list[Example], list[list[Example]]]:
    """The rows that stay, and one list for each share held out.

    Within each label whole groups are taken in the order of a hash of seed and group, until the
    share is filled; the rows that stay are never fewer than one group a label. A group whose rows
    differ in label counts for the label of its first row. O(n log n).
    """
    groups: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        groups[example.group or f"\0{example.id}"].append(example)
    strata: dict[str | None, list[str]] = defaultdict(list)
    for name, rows in groups.items():
        strata[min(rows, key=lambda row: row.id).label].append(name)
    place: dict[str, int] = {}
    for names in strata.values():
        place |= _places(sorted(names, key=lambda name: _hash(seed, name)), groups, shares)
    parts: list[list[Example]] = [[] for _ in range(len(shares) + 1)]
    for example in examples:
        parts[place[example.group or f"\0{example.id}"]].append(example)
    return parts[0], parts[1:]


def _places(
    names: list[str], groups: dict[str, list[Example]], shares: Sequence[float]
) -> dict[str, int]:
    """0 = stays, k = share k; filled from the front, the last group always stays."""
    total = sum(len(groups[name]) for name in names)
    places: dict[str, int] = {}
    rest = iter(names[:-1])
    for number, share in enumerate(shares, 1):
        wanted = round(share * total)
        while wanted > 0 and (name := next(rest, None)) is not None:
            places[name] = number
            wanted -= len(groups[name])
    return {name: places.get(name, 0) for name in names}


def _hash(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()
