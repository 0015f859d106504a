"""The answer as a stream: sampled tokens become pieces of text, which travel to the reader.

Text waits while it ends in half a character (a token may hold some bytes of one) or in what may
become a stop string. A token is delivered together with the end of its own text.
"""

import asyncio
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from burnish.data.answer_text import answer_decoder
from burnish.inference.sampling import Sampler
from burnish.inference.types import Piece, SampledToken, SamplingSettings

_UNFINISHED = "\ufffd"


@dataclass(frozen=True, slots=True)
class StopConditions:
    """What ends any answer of a model: its stop tokens, and the room left in the context."""

    tokens: frozenset[int]
    room: int


class IncrementalDecoder:
    """Decodes tokens that arrive one by one into text that will not change.

    Only the last few tokens are decoded again at each step. They are decoded with the ones before
    them, because a tokenizer may drop a space at the beginning of a text.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._text_of = answer_decoder(tokenizer)
        self.tokens: list[int] = []
        self._before, self._read = 0, 0

    def add(self, token: int) -> str:
        """What the token completes; empty while a character is unfinished."""
        self.tokens.append(token)
        new = self._new()
        if new.endswith(_UNFINISHED):
            return ""
        self._before, self._read = self._read, len(self.tokens)
        return new

    def rest(self) -> str:
        """What is left at the end, halves of characters included."""
        new = self._new()
        self._before, self._read = self._read, len(self.tokens)
        return new

    @property
    def is_complete(self) -> bool:
        """Nothing is left."""
        return self._read == len(self.tokens)

    def _new(self) -> str:
        old = self._decode(self.tokens[self._before : self._read])
        return self._decode(self.tokens[self._before :])[len(old) :]

    def _decode(self, tokens: list[int]) -> str:
        return self._text_of(tokens)


class Detokenizer:
    """Takes sampled tokens and returns the pieces of text that can be shown.

    Args:
        draw: how it is drawn; its stop strings and its length end the answer.
        tokenizer: of the model.
        ends: the model's stop tokens, and how long the answer can be.
    """

    def __init__(self, sampling: SamplingSettings, tokenizer: Any, ends: StopConditions) -> None:
        self.sampler = Sampler(sampling, ends.tokens)
        self.stops = [stop for stop in (*sampling.stop, *sampling.speakers) if stop]
        self.first_lines = [speaker.removeprefix("\n") for speaker in sampling.speakers]
        self.end_tokens = ends.tokens
        self.room = min(sampling.max_tokens, ends.room)
        self.text = IncrementalDecoder(tokenizer)
        self.count = 0
        self._held, self._shown = "", 0
        # Each token with where its text starts and ends; None while a character is unfinished.
        self._waiting: deque[tuple[SampledToken, int, int | None]] = deque()

    def add(self, drawn: SampledToken) -> Piece:
        """The next token; what it lets be shown, `end` set where it is the last.

        Raises:
            ModelError: the grammar does not allow the token.
        """
        self.count += 1
        if drawn.token in self.end_tokens:
            return self._last("stop")
        self.sampler.accept(drawn.token)
        start = self._shown + len(self._held)
        self._held += self.text.add(drawn.token)
        self._waiting.append((drawn, start, None))
        if self.text.is_complete:
            self._resolve()
        grammar = self.sampler.grammar
        if self._stop() is not None or (grammar is not None and grammar.ended):
            return self._last("stop")
        if self.count >= self.room:
            return self._last("length")
        return self._show(len(self._held) - self._possible_stop())

    def _last(self, end: str) -> Piece:
        """All that is left, up to a stop string; tokens that are wholly behind it are not told."""
        self._held += self.text.rest()
        self._resolve()
        if (cut := self._stop()) is not None:
            last = self._shown + cut
            shown = tuple(drawn for drawn, start, _ in self._waiting if start < last)
            return Piece(self._held[:cut], shown, "stop")
        return Piece(self._held, tuple(drawn for drawn, *_ in self._waiting), end)

    def _show(self, size: int) -> Piece:
        text, self._held = self._held[:size], self._held[size:]
        self._shown += size
        shown = []
        while self._waiting and (end := self._waiting[0][2]) is not None and end <= self._shown:
            shown.append(self._waiting.popleft()[0])
        return Piece(text, tuple(shown))

    def _resolve(self) -> None:
        end = self._shown + len(self._held)
        self._waiting = deque(
            (drawn, start, end if known is None else known) for drawn, start, known in self._waiting
        )

    def _stop(self) -> int | None:
        """Where the first stop string begins in what is held."""
        result = [self._held.find(stop) for stop in self.stops]
        if not self._shown:
            result += [0 for line in self.first_lines if self._held.startswith(line)]
        return min((place for place in result if place >= 0), default=None)

    def _possible_stop(self) -> int:
        """Characters at the end that a stop string may begin with."""
        if not self._shown and any(line.startswith(self._held) for line in self.first_lines):
            return len(self._held)
        return max((_overlap(self._held, stop) for stop in self.stops), default=0)


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with, short of the whole."""
    sizes = range(min(len(text), len(stop) - 1), 0, -1)
    return next((size for size in sizes if text.endswith(stop[:size])), 0)


class AnswerStream:
    """The pieces of an answer: iterate with `for` in a thread or with `async for` in an event loop.

    One reader only. Whoever stops before the end must `cancel`, or leave a `with` block, or the
    answer goes on being computed for nobody. What went wrong is raised in place of the next piece.

    `drawn` counts the tokens so far, those that no piece shows too.
    """

    def __init__(self) -> None:
        self._items: deque[Piece | Exception] = deque()
        self._changed = threading.Condition()
        self._waiter: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None
        self._over = False
        self.cancelled = False
        self.drawn = 0

    def put(self, item: Piece | Exception) -> None:
        """Add the next piece, or the error that ends the answer; called by the engine."""
        with self._changed:
            self._items.append(item)
            self._changed.notify_all()
            waiter, self._waiter = self._waiter, None
        if waiter is not None:
            loop, future = waiter
            try:
                loop.call_soon_threadsafe(_wake, future)
            except RuntimeError:  # the loop is closed, so nobody reads any more
                self.cancel()

    def cancel(self) -> None:
        """Stop the answer before the next step, since nobody reads it any more."""
        self.cancelled = True

    def __enter__(self) -> "AnswerStream":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cancel()

    def __iter__(self) -> "AnswerStream":
        return self

    def __next__(self) -> Piece:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._items) or self._over)
            if not self._items:
                raise StopIteration
            return self._take()

    def __aiter__(self) -> "AnswerStream":
        return self

    async def __anext__(self) -> Piece:
        while True:
            with self._changed:
                if self._items:
                    return self._take()
                if self._over:
                    raise StopAsyncIteration
                loop = asyncio.get_running_loop()
                future = loop.create_future()
                self._waiter = (loop, future)
            await future

    def _take(self) -> Piece:
        item = self._items.popleft()
        if isinstance(item, Exception):
            self._over = True
            raise item
        self._over = item.end is not None
        return item


def _wake(future: "asyncio.Future[None]") -> None:
    with suppress(asyncio.InvalidStateError):  # the reader was cancelled meanwhile
        future.set_result(None)
