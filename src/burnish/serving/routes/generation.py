"""Answers on their way: whole, or piece by piece; they are given up when the client hangs up."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from typing import Any, TypeVar

from fastapi import Request

from burnish.inference.engine import Backend
from burnish.inference.types import Generation, GenerationRequest, Piece
from burnish.serving.middleware.usage import Usage

T = TypeVar("T")


class ClientDisconnected(Exception):  # noqa: N818 - nothing went wrong
    """The client is gone, so nobody waits for the answer."""


async def complete(
    engine: Backend, asks: Sequence[GenerationRequest], request: Request, usage: Usage
) -> list[Generation]:
    """All answers, in the order of the asks; `usage` is filled in.

    Raises:
        HungUp: the client went away; what was under way is given up.
    """
    answers = [Generation() for _ in asks]
    await _unless_gone(_complete(engine, asks, answers, usage), request)
    return answers


async def start_stream(
    engine: Backend, asks: Sequence[GenerationRequest], request: Request, usage: Usage
) -> AsyncGenerator[tuple[int, Piece], None]:
    """Pieces of all answers, once the first is there: what keeps an answer from its beginning is
    raised while no status went out yet.

    Raises:
        HungUp: the client went away; what was under way is given up.
    """
    found = pieces(engine, asks, usage)
    first = await _unless_gone(_next(found), request)
    return _continued(first, found)


async def pieces(
    engine: Backend, asks: Sequence[GenerationRequest], usage: Usage
) -> AsyncGenerator[tuple[int, Piece], None]:
    """Pieces of all answers as they come, each with the place of its ask."""
    started = time.perf_counter()
    with contextlib.ExitStack() as given_up:
        answers = [given_up.enter_context(engine.submit(ask)) for ask in asks]
        waiting = {asyncio.create_task(_next(one)): place for place, one in enumerate(answers)}
        given_up.callback(lambda: [task.cancel() for task in waiting])
        # Also what was drawn of an answer that nobody waits for any more.
        given_up.callback(lambda: usage.count(answers))
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=waiting.__getitem__):
                place, piece = waiting.pop(task), task.result()
                usage.first = usage.first or time.perf_counter() - started
                if piece.end is None:
                    waiting[asyncio.create_task(_next(answers[place]))] = place
                usage.count(answers, piece.used)
                yield place, piece


async def _complete(
    engine: Backend, asks: Sequence[GenerationRequest], answers: Sequence[Generation], usage: Usage
) -> None:
    async with contextlib.aclosing(pieces(engine, asks, usage)) as found:
        async for place, piece in found:
            answers[place].grow(piece)


async def _continued(first: T, rest: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    async with contextlib.aclosing(rest):
        yield first
        async for one in rest:
            yield one


async def _unless_gone(work: Coroutine[Any, Any, T], request: Request) -> T:
    """What the work comes to; it is given up when the client hangs up."""
    task, gone = asyncio.create_task(work), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnected
        return await task
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _next(found: AsyncIterator[T]) -> T:
    return await anext(found)


async def _gone(request: Request) -> None:
    """Returns when the client has hung up; its body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
