"""Answers on their way: whole, or piece by piece; they are given up when the client hangs up."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from fastapi import Request

from burnish.serving.api.usage import Usage
from burnish.serving.engine.engine import Backend
from burnish.serving.engine.requests import Ask, Drawn, Piece
from burnish.serving.engine.stream import Answering


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


async def whole(
    engine: Backend, asks: Sequence[Ask], request: Request, usage: Usage
) -> list[Answer]:
    """All answers, in the order of the asks; `usage` is filled in.

    Raises:
        HungUp: the client went away; what was under way is given up.
    """
    answers = [Answer() for _ in asks]
    work = asyncio.create_task(_whole(engine, asks, answers, usage))
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait([work, gone], return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise HungUp
        await work
        return answers
    finally:
        for task in (work, gone):
            task.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


async def pieces(
    engine: Backend, asks: Sequence[Ask], usage: Usage
) -> AsyncGenerator[tuple[int, Piece], None]:
    """Pieces of all answers as they come, each with the place of its ask."""
    started = time.perf_counter()
    with contextlib.ExitStack() as given_up:
        answers = [given_up.enter_context(engine.submit(ask)) for ask in asks]
        waiting = {asyncio.create_task(_next(one)): place for place, one in enumerate(answers)}
        given_up.callback(lambda: [task.cancel() for task in waiting])
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=waiting.__getitem__):
                place, piece = waiting.pop(task), task.result()
                usage.first = usage.first or time.perf_counter() - started
                if piece.end is None:
                    waiting[asyncio.create_task(_next(answers[place]))] = place
                if piece.used is not None:
                    usage.add(piece.used)
                yield place, piece


async def _whole(
    engine: Backend, asks: Sequence[Ask], answers: Sequence[Answer], usage: Usage
) -> None:
    async with contextlib.aclosing(pieces(engine, asks, usage)) as found:
        async for place, piece in found:
            answers[place].grow(piece)


async def _next(answer: Answering) -> Piece:
    return await anext(answer)


async def _gone(request: Request) -> None:
    """Returns when the client has hung up; its body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
