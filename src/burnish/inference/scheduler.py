"""Answers that are computed together: who joins, what a step computes, who leaves.

A step computes one token of every running answer and a part of the prompts that are still read, so
that a long prompt holds nobody up. Rows join and leave between steps; nothing is padded or moved.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from burnish.inference.detokenize import Answer
from burnish.inference.forward import New, Passes
from burnish.inference.kv_cache import Computed, Segment, common
from burnish.inference.prefix_cache import Trunks
from burnish.inference.sampling import choose, reported, told
from burnish.inference.stream import Answering
from burnish.inference.types import Ask, Drawn, Piece, Used

# Tokens for which a row waits until another, that begins alike, has read them.
_WORTH_WAITING = 32
# Places that every row can grow by before somebody has to make room.
_HEADROOM = 64


@dataclass(frozen=True, slots=True)
class Limits:
    """What an engine holds at most.

    Attributes:
        rows: answers computed together.
        places: of keys and values, those of running rows and of the trunk cache together; this is
            most of the memory besides the weights, and no answer can be longer.
        waiting: answers that wait for a row; more are refused.
        read: tokens of prompts that one step reads.
        adapters: kept in memory.
    """

    rows: int = 32
    places: int = 32768
    waiting: int = 256
    read: int = 256
    adapters: int = 8


@dataclass(slots=True)
class Counts:
    """Tokens since the start: of prompts, those of them that were not computed anew, drawn ones."""

    prompted: int = 0
    cached: int = 0
    generated: int = 0


@dataclass(eq=False, slots=True)
class Running:
    """One answer from its request to its end; `computed` is None while it waits."""

    ask: Ask
    answer: Answer
    pieces: Answering
    tokens: list[int]
    computed: Computed | None = None
    cached: int = 0
    prompt: list[Drawn] = field(default_factory=list)

    @property
    def place(self) -> Computed:
        """What is computed of a row that runs."""
        assert self.computed is not None
        return self.computed

    @property
    def left(self) -> int:
        """Tokens that are not computed; 1 where only the newest is not."""
        return len(self.tokens) - len(self.place.tokens)


class Batch:
    """Rows that run and rows that wait; all of it belongs to one thread."""

    def __init__(self, passes: Passes, limits: Limits) -> None:
        self.passes, self.limits = passes, limits
        self.trunks = Trunks(limits.places)
        self.rows: list[Running] = []
        self.waiting: deque[Running] = deque()
        self.counts = Counts()

    @property
    def busy(self) -> bool:
        return bool(self.rows or self.waiting)

    def turn(self) -> None:
        """Lets rows leave and join, and computes a step."""
        for row in [row for row in (*self.rows, *self.waiting) if row.pieces.cancelled]:
            self._leave(row)
        for row in list(self.waiting):
            if len(self.rows) >= self.limits.rows or not self._join(row):
                break
        if sizes := self._sizes():
            self._compute(sizes)

    def fail(self, error: Exception) -> None:
        """Ends everything with this error."""
        for row in (*self.rows, *self.waiting):
            self._fail(row, error)

    # Joining and leaving

    def _join(self, row: Running) -> bool:
        """Lets a waiting row run, if there is room; False if those behind it must wait too."""
        try:
            number = self.passes.adapters.number(
                row.ask.adapter, [other.place.adapter for other in self.rows]
            )
        except Exception as error:
            self._fail(row, error)
            return True
        self.trunks.forget_others(self.passes.adapters.numbers)
        if self._read_soon(row, number):
            return True
        computed = self._begun(row, number)
        if computed is None:
            return False
        self.waiting.remove(row)
        self.rows.append(row)
        row.computed = computed
        if row.answer.count == 0:  # one that was put back has been counted
            row.cached = len(computed.tokens)
            self.counts.prompted += len(row.tokens)
            self.counts.cached += row.cached
        return True

    def _read_soon(self, row: Running, number: int) -> bool:
        """Whether another row is reading what this one begins with, so that waiting saves it."""
        if row.ask.prompt_logprobs:
            return False
        known = self._known(row, number)[1]
        return any(
            other.place.may_share(number, row.ask.project)
            and other.left > 1
            and common(other.tokens, row.tokens[:-1]) >= known + _WORTH_WAITING
            for other in self.rows
        )

    def _begun(self, row: Running, number: int) -> Computed | None:
        """The row with the beginning that is known, or None if there is no room for it now."""
        found, length = None, 0
        if not row.ask.prompt_logprobs:  # which need all of the prompt's hidden states
            found, length = self._known(row, number)
        room = len(row.tokens) + _HEADROOM
        spare = _HEADROOM * len(self.rows)
        if not self.trunks.shrink(self._computed(), room - length + spare) and self.rows:
            return None
        if found is not None:
            computed = found.branch(length, room)
            if self.trunks.shrink([*self._computed(), computed], spare):
                return computed
            if self.rows:
                return None
        self.trunks.shrink([], room)
        return Computed(number, own=Segment(room), project=row.ask.project)

    def _known(self, row: Running, number: int) -> tuple[Computed | None, int]:
        """Whose beginning the row may take, and how much of it."""
        return self.trunks.longest(number, row.tokens, self._computed(), row.ask.project)

    def _computed(self) -> list[Computed]:
        return [row.place for row in self.rows]

    def _leave(self, row: Running) -> None:
        """The row is done with; what was computed of it is kept while there is room."""
        if row in self.waiting:
            self.waiting.remove(row)
            return
        self.rows.remove(row)
        self.trunks.keep(row.place)
        self.trunks.shrink(self._computed())

    def _fail(self, row: Running, error: Exception) -> None:
        row.pieces.put(error)
        if row in self.waiting:
            self.waiting.remove(row)
        else:  # what an error left of it is not trusted
            self.rows.remove(row)

    # Computing

    def _sizes(self) -> dict[Running, int]:
        """Tokens that each row computes now; the youngest rows go back where room is short."""
        while True:
            left, sizes = self.limits.read, {}
            for row in self.rows:
                size = 1 if row.left == 1 else min(row.left, left)
                if size:
                    sizes[row] = size
                    left -= size if row.left > 1 else 0
            more = sum(row.place.own.growth(size) for row, size in sizes.items())
            if self.trunks.shrink(self._computed(), more) or len(self.rows) == 1:
                return sizes
            row = self.rows.pop()
            row.computed = None
            self.waiting.appendleft(row)

    def _compute(self, sizes: dict[Running, int]) -> None:
        rows = list(sizes)
        new = [New(row.place, row.tokens[len(row.place.tokens) :][: sizes[row]]) for row in rows]
        try:
            hidden = self.passes.run(new)
        except Exception as error:
            if len(rows) == 1:
                self._fail(rows[0], error)
                return
            for row in rows:  # so that only the guilty one fails
                self._compute({row: sizes[row]})
            return
        for row, hidden_L_H in zip(rows, hidden, strict=True):
            if row.ask.prompt_logprobs:
                self._tell_prompt(row, hidden_L_H)
        last = [h[-1] for row, h in zip(rows, hidden, strict=True) if not row.left]
        if last:
            self._draw([row for row in rows if not row.left], torch.stack(last))

    def _tell_prompt(self, row: Running, hidden_L_H: Tensor) -> None:
        """Of the prompt's tokens that come after these states, unless they are told already."""
        prompt, end = row.ask.prompt, len(row.place.tokens)
        if not row.prompt:
            row.prompt.append(Drawn(prompt[0]))
        first, last = len(row.prompt), min(end + 1, len(prompt))
        if first >= last:
            return
        before = end - len(hidden_L_H) + 1  # the first state predicts this place
        chosen_N_H = hidden_L_H[first - before : last - before]
        logits_N_V = self.passes.logits(chosen_N_H, [row.place.adapter] * len(chosen_N_H))
        reports = reported(logits_N_V, [row.ask.draw.top_logprobs or 0] * len(chosen_N_H))
        row.prompt += map(told, prompt[first:last], reports)

    def _draw(self, rows: Sequence[Running], hidden_B_H: Tensor) -> None:
        """The next token of rows whose tokens are all computed."""
        ended = [row for row in rows if row.answer.room == 0]
        for row in ended:
            self._deliver(row, Piece("", (), "length"))
        logits_B_V = self.passes.logits(hidden_B_H, [row.place.adapter for row in rows])
        reports = reported(logits_B_V, [row.ask.draw.top_logprobs for row in rows])
        good = [
            i for i, row in enumerate(rows) if row not in ended and self._shape(row, logits_B_V[i])
        ]
        if not good:
            return
        drawings = [rows[index].answer.drawing for index in good]
        for index, token in zip(good, choose(logits_B_V[good], drawings), strict=True):
            row = rows[index]
            self.counts.generated += 1
            try:
                piece = row.answer.add(told(token, reports[index]))
            except Exception as error:
                self._fail(row, error)
                continue
            row.tokens.append(token)
            row.pieces.drawn = row.answer.count
            self._deliver(row, piece)

    def _shape(self, row: Running, logits_V: Tensor) -> bool:
        """Whether the row can be drawn; it has failed if not."""
        try:
            row.answer.drawing.shape(logits_V)
        except Exception as error:
            self._fail(row, error)
            return False
        return True

    def _deliver(self, row: Running, piece: Piece) -> None:
        if row.prompt and row.answer.count <= 1:
            piece = replace(piece, prompt=tuple(row.prompt))
        if piece.end is not None:
            used = Used(len(row.ask.prompt), row.cached, row.answer.count)
            piece = replace(piece, used=used)
            self._leave(row)
        if piece.text or piece.drawn or piece.end or piece.prompt:
            row.pieces.put(piece)
