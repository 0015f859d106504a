"""The pieces of one answer on their way from the engine's thread to whoever asked."""

import asyncio
import threading
from collections import deque
from contextlib import suppress
from types import TracebackType

from burnish.inference.types import Piece


class AnswerStream:
    """Pieces as they come: iterate with `for` in a thread, or with `async for` in an event loop.

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
        """The next piece, or what went wrong instead of it; called by the engine."""
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
        """Nobody reads any more: the answer leaves the batch before the next step."""
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
