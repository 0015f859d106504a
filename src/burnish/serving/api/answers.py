"""Answers on their way: whole, or piece by piece; they are given up when the client hangs up."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fastapi import Request

from burnish.serving.engine.requests import Ask, Drawn, Piece

# A piece with the place of its ask, what went wrong, or None where an answer ends.
_Arrived = asyncio.Queue[tuple[int, Piece] | Exception | None]


class Answers(Protocol):
    """What the routes need of an engine."""

    def answer(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        """Pieces as they come; closing the iterator gives the answer up."""
        ...


@dataclass(slots=True)
class Answer:
    """A whole answer."""

    text: str = ""
    drawn: list[Drawn] = field(default_factory=list)
    end: str = "stop"
    prompt: tuple[Drawn, ...] = ()

    def grow(self, piece: Piece) -> None:
        self.text += piece.text
        self.drawn += piece.drawn
        self.end = piece.end or self.end
        self.prompt = piece.prompt or self.prompt


class HungUp(Exception):  # noqa: N818 - nothing went wrong
    """The client is gone, so nobody waits for the answer."""


async def whole(engine: Answers, asks: Sequence[Ask], request: Request) -> list[Answer]:
    """All answers, in the order of the asks.

    Raises:
        HungUp: the client went away; what was under way is given up.
    """
    work = asyncio.gather(*(_whole(engine, ask) for ask in asks))
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise HungUp
        return work.result()
    finally:
        for task in (work, gone):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await work


async def pieces(engine: Answers, asks: Sequence[Ask]) -> AsyncIterator[tuple[int, Piece]]:
    """Pieces of all answers as they come, each with the place of its ask."""
    arrived: _Arrived = asyncio.Queue()
    tasks = [
        asyncio.create_task(_passed_on(engine, ask, place, arrived))
        for place, ask in enumerate(asks)
    ]
    try:
        for _ in tasks:
            while (found := await arrived.get()) is not None:
                if isinstance(found, Exception):
                    raise found
                yield found
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _whole(engine: Answers, ask: Ask) -> Answer:
    answer = Answer()
    async with contextlib.aclosing(engine.answer(ask)) as found:
        async for piece in found:
            answer.grow(piece)
    return answer


async def _passed_on(engine: Answers, ask: Ask, place: int, arrived: _Arrived) -> None:
    try:
        async with contextlib.aclosing(engine.answer(ask)) as found:
            async for piece in found:
                arrived.put_nowait((place, piece))
        arrived.put_nowait(None)
    except Exception as error:
        arrived.put_nowait(error)


async def _gone(request: Request) -> None:
    """Returns when the client has hung up; its body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
