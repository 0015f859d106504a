"""One row of a model that keeps states of its own kind, and rows whose states are one batch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from burnish.inference.states import copy_state, join, restore, snapshot, split

# Rows of one batch are padded to the longest; the others are at least so long, or so close.
_LONGEST, _CLOSE = 1.25, 64
# Beginnings of a row from which branches can start, besides its end.
_MOST_SNAPSHOTS = 4


@dataclass(frozen=True, slots=True)
class StateCost:
    """Slots that a row takes.

    Attributes:
        grows: whether every token takes one.
        fixed: slots of what does not grow, such as recurrent states.
        can_be_cut: whether all of the state are keys and values of single tokens.
        copies_places: whether a snapshot holds keys and values, such as those of a window.
        stops_anywhere: whether reading can stop at any token, so that its state can be kept.
    """

    grows: bool
    fixed: int
    can_be_cut: bool
    copies_places: bool = False
    stops_anywhere: bool = True

    def slots(self, tokens: int) -> int:
        """Slots of so many tokens, with the room that padding may take."""
        return self.fixed + (longest_beside(tokens) if self.grows else 0)


def longest_beside(tokens: int) -> int:
    """The longest row that may be computed beside one of so many tokens."""
    return max(tokens + _CLOSE, int(tokens * _LONGEST))


@dataclass(eq=False, slots=True)
class StateRow:
    """The tokens of one row that are computed, and the state at their end.

    The state is its own, or a part of a batch's. It is None where nothing is computed, or where it
    was lost; then the tokens are computed again.
    """

    adapter: int
    cost: StateCost
    project: str | None = None
    reserved: int = 0
    tokens: list[int] = field(default_factory=list)
    state: Any = None
    batch: "StateBatch | None" = None
    snapshots: dict[int, Any] = field(default_factory=dict)
    wanted: set[int] = field(default_factory=set)

    @property
    def room(self) -> int:
        """Slots that the row takes."""
        ends = {*self.snapshots, *self.wanted}
        kept = sum(self.cost.fixed + self.cost.copies_places * end for end in ends)
        return kept + max(self.cost.slots(len(self.tokens)), self.reserved)

    @property
    def memory(self) -> "tuple[StateRow, ...]":
        """The row itself: it shares nothing."""
        return (self,)

    @property
    def shares_memory(self) -> bool:
        """A row shares nothing."""
        return False

    @property
    def has_state(self) -> bool:
        """Whether the next token can be computed alone."""
        return self.state is not None or self.batch is not None

    def growth(self, tokens: int) -> int:
        """Slots that so many more tokens need beyond what the row holds."""
        held = max(self.cost.slots(len(self.tokens)), self.reserved)
        return max(0, self.cost.slots(len(self.tokens) + tokens) - held)

    def reusable(self, length: int) -> int:
        """The longest beginning, of at most `length` tokens, at which there is a state."""
        if not self.has_state:
            return 0
        if self.cost.can_be_cut:
            return min(length, len(self.tokens))
        ends = [end for end in (len(self.tokens), *self.snapshots) if end <= length]
        return max(ends, default=0)

    def reusable_later(self, length: int) -> int:
        """The same; where the tokens up to there are not computed yet, their state will be kept."""
        if length <= len(self.tokens) or not self.cost.stops_anywhere:
            return self.reusable(length)
        if self.cost.can_be_cut:
            return length
        if len(self.wanted) + len(self.snapshots) < _MOST_SNAPSHOTS:
            self.wanted.add(length)
        return length if length in self.wanted else 0

    def branch(self, length: int, room: int) -> "StateRow":
        """Return a new row that starts with the first `length` tokens, which are reusable."""
        row = StateRow(self.adapter, self.cost, self.project, room, self.tokens[:length])
        state = self.current_state()
        if length == len(self.tokens):
            row.state = copy_state(state)
        else:
            kept = state if self.cost.can_be_cut else self.snapshots[length]
            row.state = restore(kept, state, length)
        return row

    def keep_snapshot(self, length: int, state: Any) -> None:
        """Keep the state after `length` tokens, if a branch will start there."""
        if length in self.wanted:
            self.wanted.remove(length)
            self.snapshots[length] = snapshot(state)

    def current_state(self) -> Any:
        """The state, in a batch's memory if the row is part of one."""
        return self.state if self.batch is None else self.batch.state_of(self)

    def leave_batch(self) -> Any:
        """The state in memory of the row's own."""
        if self.batch is not None:
            self.state, self.batch = copy_state(self.batch.state_of(self)), None
        return self.state

    def forget(self) -> None:
        """What an error left of the state is not used any more."""
        self.state, self.batch = None, None
        self.snapshots.clear()


@dataclass(eq=False, slots=True)
class StateBatch:
    """Rows that continue by one token together, and their joined state."""

    rows: list[StateRow]
    state: Any

    @property
    def lengths(self) -> list[int]:
        """Computed tokens of each row."""
        return [len(row.tokens) for row in self.rows]

    def state_of(self, row: StateRow) -> Any:
        """The row's part."""
        return split(self.state, self.rows.index(row), len(row.tokens))


def batch_of(rows: Sequence[StateRow]) -> StateBatch:
    """The rows as one batch: the one that they are already, or a new one.

    Raises:
        NotJoinableError: their states do not fit beside each other.
    """
    if (current := rows[0].batch) is not None and current.rows == list(rows):
        return current
    new = StateBatch(list(rows), join([row.current_state() for row in rows]))
    for old in {id(row.batch): row.batch for row in rows if row.batch is not None}.values():
        for row in old.rows:
            if row not in new.rows and row.batch is old:
                row.leave_batch()
    for row in rows:
        row.state, row.batch = None, new
    return new


def groups_of_rows(rows: Sequence[StateRow], *, unequal: bool) -> list[list[StateRow]]:
    """Rows that are computed together: of one adapter, and of lengths that are close enough."""
    groups: list[list[StateRow]] = []
    for row in sorted(rows, key=lambda row: (row.adapter, -len(row.tokens))):
        longest = groups[-1][0] if groups else row
        most = longest_beside(len(row.tokens)) if unequal else len(row.tokens)
        if groups and longest.adapter == row.adapter and len(longest.tokens) <= most:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups
