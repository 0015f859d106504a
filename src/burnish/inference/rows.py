"""What the scheduler and the prefix cache know of a row: its tokens, its memory, its branches.

A slot is the memory of one token's keys and values in all layers; other memory is counted in slots
too.
"""

from collections.abc import Iterable
from typing import Protocol


class Room(Protocol):
    """Memory that rows hold, alone or together with others."""

    @property
    def room(self) -> int:
        """Slots that it takes."""
        ...


class Row(Protocol):
    """The tokens of one sequence that are computed.

    `adapter` says with which weights, `project` for whom: rows that differ in either share nothing.
    """

    adapter: int
    tokens: list[int]
    project: str | None

    @property
    def memory(self) -> Iterable[Room]:
        """Where its states are; parts that other rows hold too are the same objects."""
        ...

    @property
    def shares_memory(self) -> bool:
        """Whether its beginning is another row's memory, so that both are computed together."""
        ...

    def growth(self, tokens: int) -> int:
        """Slots that so many more tokens need beyond what the row holds."""
        ...

    def reusable(self, length: int) -> int:
        """The longest beginning, of at most `length` tokens, that a branch can start from."""
        ...

    def reusable_later(self, length: int) -> int:
        """The same once all of the row's tokens are computed; what has to be kept for it is."""
        ...

    def branch(self, length: int, room: int) -> "Row":
        """Return a new row that starts with the first `length` tokens, which are reusable."""
        ...


def shares_with(row: Row, adapter: int, project: str | None) -> bool:
    """Whether a request with this adapter and project may reuse the row."""
    return (row.adapter, row.project) == (adapter, project)


def total_slots(rows: Iterable[Row]) -> int:
    """Return the number of slots that rows hold together; shared slots count once."""
    held = {id(part): part for row in rows for part in row.memory}
    return sum(part.room for part in held.values())


def common_prefix_length(one: list[int], other: list[int], least: int = 0) -> int:
    """Return the length of the longest common prefix; 0 if it is at most `least`."""
    end = min(len(one), len(other))
    if end <= least or one[: least + 1] != other[: least + 1]:
        return 0
    low = least + 1  # bisection compares slices, many times faster than token by token
    while low < end:
        middle = (low + end + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            end = middle - 1
    return low
