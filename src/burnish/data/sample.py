"""Draws a seeded sample of a file's rows: stratified by label, with groups kept whole."""

import hashlib
import heapq
from collections import Counter, defaultdict
from collections.abc import Mapping

from burnish.conversation import Example
from burnish.errors import DataError, quantity
from burnish.runs.directory import Finding

LIMIT = "limit"  # the kind of its finding
_Unit = list[tuple[int, Example]]  # rows that stay together, each with its place in the file
_Member = tuple[int, _Unit]  # a unit with its hash


class Sample:
    """Receives rows one by one and keeps at most `limit` of them; all if it is None.

    A hash of seed and row decides which rows are kept, so the result does not depend on their order
    in the file. A repeated row is kept once. Rows with neither label nor group need the memory of
    `limit` rows; other rows are all held in memory.
    """

    def __init__(self, limit: int | None, seed: int) -> None:
        self._limit = limit
        self._seed = seed
        self._count = 0
        self._kept: _Unit = []
        self._heap: list[tuple[int, int, Example]] = []
        self._bare = 0
        self._held: set[object] = set()  # contents of the rows in the heap
        self._repeated: _Unit = []  # kept as long as no row is left out

    def add(self, example: Example) -> None:
        """Adds the next row of the file."""
        self._count += 1
        if self._limit is None or example.label is not None or example.group is not None:
            self._kept.append((self._count, example))
            return
        if example.content in self._held:
            if self._count <= self._limit:
                self._repeated.append((self._count, example))
            return
        self._bare += 1
        # The largest hash is removed first; the position in the file breaks ties.
        entry = (-_hash(self._seed, example.id), -self._count, example)
        self._held.add(example.content)
        heapq.heappush(self._heap, entry)
        if len(self._heap) > self._limit:
            self._held.discard(heapq.heappop(self._heap)[2].content)

    def draw(self, name: str) -> tuple[list[Example], list[Finding]]:
        """The kept rows, in the order of the file, and a finding on the rows of `name` left out.

        Raises:
            DataError: every group has more rows than the limit.
        """
        if self._limit is None or self._count <= self._limit:
            kept = [*self._kept, *((-place, example) for _, place, example in self._heap)]
            return _ordered([*kept, *self._repeated]), []
        rows = _ordered(self._drawn(self._limit))
        if not rows:
            least = min(Counter(row.group for _, row in self._kept).values())
            raise DataError(
                f"data.limit is {self._limit}, but the smallest group of {name} has {least} rows, "
                "and groups are kept whole",
                f"raise it to at least {least}",
                code="limit_below_group",
                limit=self._limit,
                part=name,
                least=least,
            )
        labels = ", stratified by label" if any(row.label for row in rows) else ""
        groups = ", with groups kept whole" if any(row.group for row in rows) else ""
        message = (
            f"data.limit keeps {len(rows)} of the {self._count} rows of {name}, drawn at random"
            f"{labels}{groups}"
        )
        left, all_labels = ({row.label for row in of} for of in (rows, self._labelled()))
        lost = len(all_labels - left)
        if not lost:
            return rows, [Finding(LIMIT, "info", message, len(rows))]
        of = f"of {quantity(len(all_labels), 'label')}"
        message += f"; {quantity(lost, f'{of} has', f'{of} have')} no rows left"
        return rows, [Finding(LIMIT, "warning", message, len(rows), remedy="raise data.limit")]

    def _labelled(self) -> list[Example]:
        return [row for _, row in self._kept if row.label is not None]

    def _drawn(self, limit: int) -> _Unit:
        strata, sizes = self._strata()
        quotas = _quotas(sizes, limit)
        taken: _Unit = []
        rest: list[_Member] = []
        for stratum, members in sorted(strata.items()):
            left = quotas[stratum]
            for member in sorted(members, key=_order):
                if len(member[1]) <= left:
                    taken += member[1]
                    left -= len(member[1])
                else:
                    rest.append(member)
        # Room that whole groups could not fill is given to smaller units.
        for _, unit in sorted(rest, key=_order):
            if len(unit) <= limit - len(taken):
                taken += unit
        return taken

    def _strata(self) -> tuple[dict[str, list[_Member]], Counter[str]]:
        """The units of each label, and the number of its rows in the file."""
        units: dict[str, _Unit] = defaultdict(list)
        seen: set[object] = set()
        for place, example in self._kept:
            if example.group is None:
                if example.content in seen:
                    continue
                seen.add(example.content)
            own = f"\0{place}" if example.group is None else example.group
            units[own].append((place, example))
        strata: dict[str, list[_Member]] = defaultdict(list)
        sizes: Counter[str] = Counter()
        for unit in units.values():
            first, stratum = unit[0][1], _stratum(unit)
            name = first.id if first.group is None else first.group
            strata[stratum].append((_hash(self._seed, name), unit))
            sizes[stratum] += len(unit)
        if self._heap:
            strata[""] += ((-order, [(-place, row)]) for order, place, row in self._heap)
            sizes[""] += self._bare
        return strata, sizes


def _order(member: _Member) -> tuple[int, int]:
    """Sort key: the hash, then the position in the file."""
    return member[0], member[1][0][0]


def _stratum(unit: _Unit) -> str:
    counts = Counter(example.label or "" for _, example in unit)
    return min(counts, key=lambda label: (-counts[label], label))


def _quotas(sizes: Mapping[str, int], limit: int) -> dict[str, int]:
    """Rows per stratum: one each if the limit allows it, and the rest in proportion to its size."""
    least = 1 if len(sizes) <= limit else 0
    free, total = limit - least * len(sizes), sum(sizes.values()) - least * len(sizes)
    exact = {name: free * (size - least) / total for name, size in sizes.items()}
    quotas = {name: least + int(share) for name, share in exact.items()}
    by_rest = sorted(exact, key=lambda name: (int(exact[name]) - exact[name], name))
    for name in by_rest[: limit - sum(quotas.values())]:
        quotas[name] += 1
    return quotas


def _ordered(rows: _Unit) -> list[Example]:
    return [example for _, example in sorted(rows, key=lambda row: row[0])]


def _hash(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"limit:{seed}:{name}".encode()).digest()[:8], "big")
