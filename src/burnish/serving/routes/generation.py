"""What chat and completions share: find the model, submit requests, return answers whole or as
server-sent events. Answers whose client disconnects are given up."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from anyio import to_thread
from fastapi import Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from burnish.errors import UserError
from burnish.inference.engine import Backend
from burnish.inference.errors import InferenceError
from burnish.inference.types import Generation, GenerationRequest, Piece
from burnish.serving.catalog.registry import ModelRegistry
from burnish.serving.catalog.served_model import ServedModel
from burnish.serving.errors import ApiError, inference_error, refused
from burnish.serving.middleware.request_state import SHORT, Usage, project_of, release_body

T = TypeVar("T")
Result = TypeVar("Result")


class ClientDisconnected(Exception):  # noqa: N818 - nothing went wrong
    """The client disconnected, so nobody waits for the answer."""


async def complete(
    engine: Backend, asks: Sequence[GenerationRequest], request: Request, usage: Usage
) -> list[Generation]:
    """Return all answers, in the order of the requests, and fill in `usage`.

    Raises:
        HungUp: the client went away; what was under way is given up.
    """
    answers = [Generation() for _ in asks]
    await _unless_gone(_complete(engine, asks, answers, usage), request)
    return answers


async def start_stream(
    engine: Backend, asks: Sequence[GenerationRequest], request: Request, usage: Usage
) -> AsyncGenerator[tuple[int, Piece], None]:
    """Wait for the first piece, then return a generator of all pieces; an error before the first
    piece is raised here, while the status can still be chosen.

    Raises:
        HungUp: the client went away; what was under way is given up.
    """
    result = pieces(engine, asks, usage)
    first = await _unless_gone(_next(result), request)
    return _continued(first, result)


async def pieces(
    engine: Backend, asks: Sequence[GenerationRequest], usage: Usage
) -> AsyncGenerator[tuple[int, Piece], None]:
    """Yield the pieces of all answers as they arrive, each with the index of its request."""
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
    async with contextlib.aclosing(pieces(engine, asks, usage)) as result:
        async for place, piece in result:
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


async def resolve_model(request: Request, name: str) -> ServedModel:
    """Return the model with this name or alias; its base model is loaded at the first request.

    Raises:
        ApiError: the model does not exist, is not served here, or may not be used by the project.
    """
    registry: ModelRegistry = request.app.state.service.engines
    return await to_thread.run_sync(registry.target, name, project_of(request))


async def run_in_thread_if_large(
    request: Request, work: Callable[..., Result], *given: Any, compiles: bool = False
) -> Result:
    """Run `work` at once for a short body, and in a thread for a long one or for a schema.

    Megabytes of prompt take a while to render, in which nobody else would be answered. Few are
    prepared at once, since each takes many times its size while it is. What `compiles` a schema may
    take as long, however short it is.
    """
    told = request.headers.get("content-length", "")
    if not compiles and told.isdecimal() and int(told) <= SHORT:
        return work(*given)
    try:
        return await to_thread.run_sync(work, *given, limiter=request.app.state.preparing)
    finally:
        release_body(request.scope)


# Proxies must neither keep nor join events.
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def streamed(events: AsyncIterator[BaseModel]) -> StreamingResponse:
    """Return a response that sends each event as a line of JSON, and `[DONE]` at the end."""
    return StreamingResponse(_lines(events), media_type="text/event-stream", headers=_HEADERS)


async def _lines(events: AsyncIterator[BaseModel]) -> AsyncIterator[str]:
    try:
        async for event in events:
            yield _line(event.model_dump(mode="json", exclude_unset=True))
        yield "data: [DONE]\n\n"
    except ApiError as error:  # the status went out with the first line
        yield _line(error.body)
    except InferenceError as error:
        yield _line(inference_error(error).body)
    except UserError as error:
        yield _line(refused(error).body)


def _line(event: Any) -> str:
    return f"data: {json.dumps(event, ensure_ascii=False, separators=(',', ':'))}\n\n"
