"""Keys and values of one row: a trunk that it shares with other rows, and a part of its own.

A row is its trunk, the beginning of another row's places, and its own places after that. The trunk
is not copied: places once written never change, so any number of rows look at the same ones.

Shapes: P places, H heads of keys and values, L new tokens, D head size; the 2 is keys and values.
"""

from dataclasses import dataclass, field

from torch import Tensor

# Places that a row begins with, and how many times as many it has when it needs more.
_FIRST, _GROWTH = 64, 1.25
# A shorter beginning is copied: a part of its own costs a row more than so many places.
_SHARED_AT_LEAST = 32


class Segment:
    """Places of one row in all layers; `length` of them are written.

    A segment that is full is not enlarged but succeeded by a larger one, so that rows that look at
    it keep what they look at.
    """

    def __init__(self, room: int = _FIRST) -> None:
        self.room = max(room, _FIRST)
        self.length = 0
        self.layers: dict[int, Tensor] = {}

    def write(self, layer: int, new_2_H_L_D: Tensor) -> None:
        """Puts keys and values behind `length`, which `advance` moves when all layers have them."""
        if layer not in self.layers:
            two, heads, _, size = new_2_H_L_D.shape
            self.layers[layer] = new_2_H_L_D.new_empty(two, heads, self.room, size)
        self.layers[layer][:, :, self.length : self.length + new_2_H_L_D.shape[2]] = new_2_H_L_D

    def advance(self, tokens: int) -> None:
        """Count `tokens` more slots as written."""
        self.length += tokens

    def growth(self, tokens: int) -> int:
        """Places that `with_room` would add."""
        needed = self.length + tokens
        return 0 if needed <= self.room else max(needed, int(self.room * _GROWTH)) - self.room

    def with_room(self, tokens: int) -> "Segment":
        """This segment if `tokens` more fit in, else a larger one with the same contents."""
        if not (more := self.growth(tokens)):
            return self
        larger = Segment(self.room + more)
        larger.copy(self, 0, self.length)
        return larger

    def copy(self, source: "Segment", start: int, end: int) -> None:
        """Places [start, end) of another segment behind one's own."""
        for layer, slots in source.layers.items():
            self.write(layer, slots[:, :, start:end])
        self.advance(end - start)


@dataclass(eq=False, slots=True)
class KVRow:
    """The tokens of one row that are computed, and where their keys and values are.

    The first `shared` places are the trunk's, the others its own. `adapter` says with which
    weights, `project` for whom: rows that differ in either share nothing.
    """

    adapter: int
    tokens: list[int] = field(default_factory=list)
    trunk: Segment | None = None
    shared: int = 0
    own: Segment = field(default_factory=Segment)
    project: str | None = None

    @property
    def memory(self) -> tuple[Segment, ...]:
        """Its segments."""
        return (self.own,) if self.trunk is None else (self.own, self.trunk)

    @property
    def shares_memory(self) -> bool:
        """Whether it has a trunk."""
        return self.trunk is not None

    def growth(self, tokens: int) -> int:
        """Slots that so many more tokens need beyond what the row holds."""
        return self.own.growth(tokens)

    def reusable(self, length: int) -> int:
        """A branch can start anywhere."""
        return length

    def reusable_later(self, length: int) -> int:
        """A branch can start anywhere."""
        return length

    def branch(self, length: int, room: int) -> "KVRow":
        """Return a new row that starts with the first `length` of these tokens."""
        row = KVRow(self.adapter, self.tokens[:length], project=self.project)
        trunk, shared = self._trunk(length)
        if trunk is not None:
            row.trunk, row.shared = trunk, shared
        row.own = Segment(room - row.shared)
        if self.trunk is not None and row.shared < min(length, self.shared):
            row.own.copy(self.trunk, row.shared, min(length, self.shared))
        if length > max(row.shared, self.shared):
            start = max(row.shared - self.shared, 0)
            row.own.copy(self.own, start, length - self.shared)
        return row

    def _trunk(self, length: int) -> tuple[Segment | None, int]:
        """The part of the beginning that a branch looks at; the rest it copies."""
        if length < _SHARED_AT_LEAST:
            return None, 0
        if self.trunk is None:
            return self.own, length
        shared = min(length, self.shared)
        if length - shared <= shared:
            return self.trunk, shared
        # Most of it would be copied for every branch, so it is made one segment, once.
        whole = Segment(len(self.tokens))
        whole.copy(self.trunk, 0, self.shared)
        whole.copy(self.own, 0, self.own.length)
        self.trunk, self.shared, self.own = None, 0, whole
        return whole, length
