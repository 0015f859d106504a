"""The scheduler: which requests run together, and what each step computes.

A step computes one token of every running answer and a part of the prompts that are still read, so
that a long prompt does not delay the others. Rows join and leave between steps; nothing is padded
or moved.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from burnish.inference.forward import NewTokens
from burnish.inference.prefix_cache import PrefixCache
from burnish.inference.rows import Row, common_prefix_length, shares_with
from burnish.inference.runner import Runner
from burnish.inference.sampling import logprob_reports, sample_tokens, with_logprob
from burnish.inference.stream import AnswerStream, Detokenizer
from burnish.inference.types import GenerationRequest, Piece, SampledToken, TokenCounts

# Tokens for which a row waits until another, that begins alike, has read them.
_WORTH_WAITING = 32
# Places that every row can grow by before somebody has to make room.
_HEADROOM = 64


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Bounds of one engine.

    Attributes:
        max_batch: answers that are computed together.
        cache_tokens: tokens whose keys and values fit into memory, those of running answers and of
            the prefix cache together. This is most of the memory besides the weights, and no
            sequence can be longer.
        max_waiting: answers that wait for a free row; further requests are refused.
        prefill_tokens: prompt tokens that one step reads.
        max_adapters: adapters that stay in memory.
    """

    max_batch: int = 32
    cache_tokens: int = 32768
    max_waiting: int = 256
    prefill_tokens: int = 256
    max_adapters: int = 8


@dataclass(slots=True)
class TokenTotals:
    """Tokens since the start: of prompts, of their cached parts, and generated ones."""

    prompted: int = 0
    cached: int = 0
    generated: int = 0


@dataclass(eq=False, slots=True)
class ActiveRequest:
    """One answer from its request to its end; `kv_row` is None while it waits."""

    request: GenerationRequest
    answer: Detokenizer
    pieces: AnswerStream
    tokens: list[int]
    kv_row: Row | None = None
    cached: int = 0
    prompt: list[SampledToken] = field(default_factory=list)

    @property
    def kv(self) -> Row:
        """What is computed of a row that runs."""
        assert self.kv_row is not None
        return self.kv_row

    @property
    def uncomputed(self) -> int:
        """Tokens that are not computed; 1 where only the newest is not."""
        return len(self.tokens) - len(self.kv.tokens)


class Scheduler:
    """The running and waiting requests; all of it belongs to one thread."""

    def __init__(self, runner: Runner, limits: EngineLimits) -> None:
        self.runner, self.limits = runner, limits
        self.prefix_cache = PrefixCache(limits.cache_tokens)
        self.rows: list[ActiveRequest] = []
        self.waiting: deque[ActiveRequest] = deque()
        self.counts = TokenTotals()

    @property
    def busy(self) -> bool:
        """Whether any request runs or waits."""
        return bool(self.rows or self.waiting)

    def step(self) -> None:
        """Admit and retire requests, then compute one step."""
        for row in [row for row in (*self.rows, *self.waiting) if row.pieces.cancelled]:
            self._retire(row)
        for row in list(self.waiting):
            if len(self.rows) >= self.limits.max_batch or not self._admit(row):
                break
        if sizes := self._plan_step():
            self._compute(sizes)

    def fail(self, error: Exception) -> None:
        """End all requests with this error."""
        for row in (*self.rows, *self.waiting):
            self._fail(row, error)

    # Joining and leaving

    def _admit(self, row: ActiveRequest) -> bool:
        """Lets a waiting row run, if there is room; False if those behind it must wait too."""
        try:
            number = self.runner.adapters.number(
                row.request.adapter, [other.kv.adapter for other in self.rows]
            )
        except Exception as error:
            self._fail(row, error)
            return True
        self.prefix_cache.keep_adapters(self.runner.adapters.numbers)
        if self._should_wait_for_prefill(row, number):
            return True
        computed = self._cached_row(row, number)
        if computed is None:
            return False
        self._note_common_beginning(row, computed)
        self.waiting.remove(row)
        self.rows.append(row)
        row.kv_row = computed
        if row.answer.count == 0:  # one that was put back has been counted
            row.cached = len(computed.tokens)
            self.counts.prompted += len(row.tokens)
            self.counts.cached += row.cached
        return True

    def _should_wait_for_prefill(self, row: ActiveRequest, number: int) -> bool:
        """Whether another row is reading what this one begins with, so that waiting saves it."""
        if row.request.prompt_logprobs:
            return False
        known = self._longest_match(row, number)[1]
        return any(
            shares_with(other.kv, number, row.request.project)
            and other.uncomputed > 1
            and (common := common_prefix_length(other.tokens, row.tokens[:-1]))
            >= known + _WORTH_WAITING
            and other.kv.reusable_later(common) >= known + _WORTH_WAITING
            for other in self.rows
        )

    def _cached_row(self, row: ActiveRequest, number: int) -> Row | None:
        """The row with the beginning that is known, or None if there is no room for it now."""
        result, length = None, 0
        if not row.request.prompt_logprobs:  # which need all of the prompt's hidden states
            result, length = self._longest_match(row, number)
        room = len(row.tokens) + _HEADROOM
        spare = _HEADROOM * len(self.rows)
        if (
            not self.prefix_cache.evict_until_fits(
                self._computed(), self.runner.slots(room, length) + spare
            )
            and self.rows
        ):
            return None
        if result is not None:
            computed = result.branch(length, room)
            if self.prefix_cache.evict_until_fits([*self._computed(), computed], spare):
                return computed
            if self.rows:
                return None
        self.prefix_cache.evict_until_fits([], self.runner.slots(room))
        return self.runner.new_row(number, room, row.request.project)

    def _note_common_beginning(self, row: ActiveRequest, computed: Row) -> None:
        """Where rows can be branched at some places only, they can be where two of them part."""
        common = self.prefix_cache.longest_common(
            computed.adapter, row.tokens, self._computed(), row.request.project
        )
        if common >= len(computed.tokens) + _WORTH_WAITING:
            computed.reusable_later(common)

    def _longest_match(self, row: ActiveRequest, number: int) -> tuple[Row | None, int]:
        """Whose beginning the row may take, and how much of it."""
        return self.prefix_cache.longest_match(
            number, row.tokens, self._computed(), row.request.project
        )

    def _computed(self) -> list[Row]:
        return [row.kv for row in self.rows]

    def _retire(self, row: ActiveRequest) -> None:
        """The row is done with; what was computed of it is kept while there is room."""
        if row in self.waiting:
            self.waiting.remove(row)
            return
        self.rows.remove(row)
        self.prefix_cache.add(row.kv)
        self.prefix_cache.evict_until_fits(self._computed())

    def _fail(self, row: ActiveRequest, error: Exception) -> None:
        row.pieces.put(error)
        if row in self.waiting:
            self.waiting.remove(row)
        else:  # what an error left of it is not trusted
            self.rows.remove(row)

    # Computing

    def _plan_step(self) -> dict[ActiveRequest, int]:
        """Tokens that each row computes now; the youngest rows go back where room is short."""
        while True:
            left, sizes = self.limits.prefill_tokens, {}
            for row in self.rows:
                size = 1 if row.uncomputed == 1 else self._prompt_part(row, left)
                if size:
                    sizes[row] = size
                    left -= size if row.uncomputed > 1 else 0
            more = sum(row.kv.growth(size) for row, size in sizes.items())
            if self.prefix_cache.evict_until_fits(self._computed(), more) or len(self.rows) == 1:
                return sizes
            row = self.rows.pop()
            row.kv_row = None
            self.waiting.appendleft(row)

    def _prompt_part(self, row: ActiveRequest, left: int) -> int:
        """Tokens of a prompt that a step reads, of `left` for all prompts."""
        if self.runner.reads_whole and left > 0:
            return row.uncomputed
        return max(0, min(row.uncomputed, left))

    def _compute(self, sizes: dict[ActiveRequest, int]) -> None:
        rows = list(sizes)
        new = [NewTokens(row.kv, row.tokens[len(row.kv.tokens) :][: sizes[row]]) for row in rows]
        try:
            hidden = self.runner.run(new)
        except Exception as error:
            if len(rows) == 1:
                self._fail(rows[0], error)
                return
            for row in rows:  # so that only the guilty one fails
                self._compute({row: sizes[row]})
            return
        for row, hidden_L_H in zip(rows, hidden, strict=True):
            if row.request.prompt_logprobs:
                self._report_prompt_logprobs(row, hidden_L_H)
        last = [h[-1] for row, h in zip(rows, hidden, strict=True) if not row.uncomputed]
        if last:
            self._sample_next([row for row in rows if not row.uncomputed], torch.stack(last))

    def _report_prompt_logprobs(self, row: ActiveRequest, hidden_L_H: Tensor) -> None:
        """Of the prompt's tokens that come after these states, unless they are told already."""
        prompt, end = row.request.prompt, len(row.kv.tokens)
        if not row.prompt:
            row.prompt.append(SampledToken(prompt[0]))
        first, last = len(row.prompt), min(end + 1, len(prompt))
        if first >= last:
            return
        before = end - len(hidden_L_H) + 1  # the first state predicts this place
        chosen_N_H = hidden_L_H[first - before : last - before]
        logits_N_V = self.runner.logits(chosen_N_H, [row.kv.adapter] * len(chosen_N_H))
        reports = logprob_reports(
            logits_N_V, [row.request.sampling.top_logprobs or 0] * len(chosen_N_H)
        )
        row.prompt += map(with_logprob, prompt[first:last], reports)

    def _sample_next(self, rows: Sequence[ActiveRequest], hidden_B_H: Tensor) -> None:
        """The next token of rows whose tokens are all computed."""
        ended = [row for row in rows if row.answer.room == 0]
        for row in ended:
            self._deliver(row, Piece("", (), "length"))
        logits_B_V = self.runner.logits(hidden_B_H, [row.kv.adapter for row in rows])
        reports = logprob_reports(logits_B_V, [row.request.sampling.top_logprobs for row in rows])
        good = [
            i
            for i, row in enumerate(rows)
            if row not in ended and self._adjust_logits(row, logits_B_V[i])
        ]
        if not good:
            return
        samplers = [rows[index].answer.sampler for index in good]
        for index, token in zip(good, sample_tokens(logits_B_V[good], samplers), strict=True):
            row = rows[index]
            self.counts.generated += 1
            try:
                piece = row.answer.add(with_logprob(token, reports[index]))
            except Exception as error:
                self._fail(row, error)
                continue
            row.tokens.append(token)
            row.pieces.drawn = row.answer.count
            self._deliver(row, piece)

    def _adjust_logits(self, row: ActiveRequest, logits_V: Tensor) -> bool:
        """Whether the row can be drawn; it has failed if not."""
        try:
            row.answer.sampler.adjust_logits(logits_V)
        except Exception as error:
            self._fail(row, error)
            return False
        return True

    def _deliver(self, row: ActiveRequest, piece: Piece) -> None:
        if row.prompt and row.answer.count <= 1:
            piece = replace(piece, prompt=tuple(row.prompt))
        if piece.end is not None:
            used = TokenCounts(len(row.request.prompt), row.cached, row.answer.count)
            piece = replace(piece, used=used)
            self._retire(row)
        if piece.text or piece.drawn or piece.end or piece.prompt:
            row.pieces.put(piece)
