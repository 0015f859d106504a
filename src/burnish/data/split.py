"""Splits rows by a seeded hash: stratified by label, groups kept whole, in any row order."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from burnish.conversation import Example
from burnish.data.checks.dataset import normalised_question
from burnish.errors import DataError

Groups = dict[str, list[Example]]


def split(
    examples: Sequence[Example], shares: Sequence[float], seed: int
) -> tuple[list[Example], list[list[Example]]]:
    """Returns the rows that stay, and one list of rows for each held-out share, in input order.

    Within each label whole groups are taken in the order of a hash of seed and group. Every label
    keeps at least one group among the rows that stay, so that it is trained on; a group belongs to
    its most frequent label. O(n log n).

    Raises:
        DataError: the shares add up to 1 or more.
    """
    if sum(shares) >= 1:
        seen = " and ".join(f"{share:g}" for share in shares)
        raise DataError(
            f"the shares {seen} in data.split leave no rows for training",
            "lower their sum below 1",
            code="split_leaves_nothing",
            shares=[*shares],
        )
    group_of = [_group(example) for example in examples]
    groups: Groups = defaultdict(list)
    for example, name in zip(examples, group_of, strict=True):
        groups[name].append(example)
    place = _places(groups, sorted(groups, key=lambda name: _hash(seed, name)), shares)
    parts: list[list[Example]] = [[] for _ in range(len(shares) + 1)]
    for example, name in zip(examples, group_of, strict=True):
        parts[place.get(name, 0)].append(example)
    return parts[0], parts[1:]


def _group(example: Example) -> str:
    """The group of a row; rows without one are grouped by their normalised question."""
    return f"\0{normalised_question(example)}" if example.group is None else example.group


def _places(groups: Groups, names: Sequence[str], shares: Sequence[float]) -> dict[str, int]:
    """Maps held-out groups to their share, from 1; `names` are in the order of their hashes."""
    strata: dict[str, list[str]] = defaultdict(list)
    for name in names:
        strata[_stratum(groups[name])].append(name)
    stay = _kept_for_labels(groups, names)
    places: dict[str, int] = {}
    # Remainders are carried to the next stratum; otherwise many rare labels would give no rows.
    owed = [0.0 for _ in shares]
    for _, stratum in sorted(strata.items()):
        rows = sum(len(groups[name]) for name in stratum)
        owed = [left + share * rows for left, share in zip(owed, shares, strict=True)]
        for name in stratum:
            size = len(groups[name])
            k = next((k for k, left in enumerate(owed) if left > 0 and size / 2 <= left), None)
            if name not in stay and k is not None:
                places[name] = k + 1
                owed[k] -= size
    return places


def _stratum(rows: Iterable[Example]) -> str:
    counts = Counter(row.label or "" for row in rows)
    return min(counts, key=lambda label: (-counts[label], label))


def _kept_for_labels(groups: Groups, names: Iterable[str]) -> set[str]:
    """The first group of each label."""
    seen: set[str | None] = set()
    kept: set[str] = set()
    for name in names:
        labels = {row.label for row in groups[name]}
        if not labels <= seen:
            seen |= labels
            kept.add(name)
    return kept


def _hash(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()
