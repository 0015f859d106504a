"""The threads in which the server runs graders, limited in total and per API key.

Routes share one pool of threads. Graders that slept in it would keep files, jobs and keys waiting.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from anyio import CancelScope, CapacityLimiter, to_thread
from fastapi import Request

from burnish.errors import quantity
from burnish.evaluation.graders import Grader
from burnish.evaluation.graders.sandbox import Limits
from burnish.serving.errors import ApiError
from burnish.serving.middleware.request_state import key_of
from burnish.serving.state.installation import GradingBounds

Result = TypeVar("Result")

_MINUTE = 60.0
# Requests whose graders wait for a model: an engine answers as many at once.
_JUDGED = 32
# Seconds until a full queue is to be tried again.
_AGAIN = 5
_GONE = 499


class Grading:
    """Runs the graders of requests; each server process has one."""

    def __init__(
        self, bounds: GradingBounds | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.bounds, self._clock = bounds or GradingBounds(), clock
        self._computing = CapacityLimiter(self.bounds.processes)
        self._judged = CapacityLimiter(_JUDGED)
        self._inside: Counter[tuple[bool, str | None]] = Counter()
        self._seconds: dict[str, tuple[float, float]] = {}  # what is left, and when that was

    async def run(
        self, request: Request, grader: Grader, work: Callable[[Limits], Result]
    ) -> Result:
        """Run `work` when its turn comes, and return its result; the work stops when the client
        disconnects.

        Raises:
            ApiError: 429, too many wait or the key has used up its seconds; or as the work does.
        """
        key = key_of(request)
        owner, computes = key.id if key else None, grader.uses_cpu
        self._admit(owner, computes=computes)
        limits = replace(Limits(), memory=self._memory())

        def begun() -> Result:
            """Do the work, and count its seconds if it computes."""
            if not computes:
                return work(limits)
            self._check_seconds(owner)
            started = self._clock()
            try:
                return work(replace(limits, ends=time.monotonic() + self.bounds.request))
            finally:
                self._spend(owner, self._clock() - started)

        self._inside[computes, owner] += 1
        watch: asyncio.Task[None] | None = None
        try:
            with CancelScope() as scope:
                watch = asyncio.create_task(_watch(request, limits, scope))
                limiter = self._computing if computes else self._judged
                return await to_thread.run_sync(begun, limiter=limiter)
        finally:
            self._inside[computes, owner] -= 1
            if watch is not None:
                watch.cancel()
        raise ApiError(_GONE, "The client closed the connection.", code="client_closed_request")

    def _memory(self) -> int:
        """Of one program: the API's 2 GiB, or its share where that is less."""
        return min(Limits().memory, self.bounds.memory // self.bounds.processes)

    def _admit(self, owner: str | None, *, computes: bool) -> None:
        at_once = self.bounds.processes if computes else _JUDGED
        inside = sum(n for (kind, _), n in self._inside.items() if kind == computes)
        own = self._inside[computes, owner] if owner else 0
        if inside >= at_once + self.bounds.waiting or own > self.bounds.waiting // 2:
            raise _too_many(
                quantity(inside, "request with graders is", "requests with graders are")
                + " already running or waiting. Please try again later.",
                "graders_busy",
                _AGAIN,
            )
        if computes:
            self._check_seconds(owner)

    def _check_seconds(self, owner: str | None) -> None:
        """A server without keys has nobody to protect from another."""
        left = self._left(owner) if owner else math.inf
        if left <= 0:
            raise _too_many(
                "The graders of this key have used up their "
                f"{quantity(self.bounds.seconds, 'second')} per minute. Please try again later, or "
                "send fewer graders at once.",
                "rate_limit_exceeded",
                (1 - left) * _MINUTE / self.bounds.seconds,
            )

    def _left(self, owner: str) -> float:
        full, now = self.bounds.seconds, self._clock()
        left, then = self._seconds.get(owner, (full, now))
        return min(full, left + (now - then) * full / _MINUTE)

    def _spend(self, owner: str | None, seconds: float) -> None:
        if owner is not None:
            self._seconds[owner] = (self._left(owner) - seconds, self._clock())


async def _watch(request: Request, limits: Limits, scope: CancelScope) -> None:
    """Ends what nobody waits for: a program that runs, or the wait for its turn."""
    while (await request.receive())["type"] != "http.disconnect":
        pass  # the rest of a body that was read already
    limits.stop.set()
    scope.cancel()


def grader_pool(request: Request) -> Grading:
    """Return the grader pool of the server process."""
    state = request.app.state
    if not hasattr(state, "grading"):
        settings = getattr(getattr(state, "service", None), "settings", None)
        state.grading = Grading(getattr(settings, "grading", None))
    result: Grading = state.grading
    return result


def _too_many(message: str, code: str, seconds: float) -> ApiError:
    headers = {
        "retry-after": str(math.ceil(seconds)),
        "retry-after-ms": str(math.ceil(1000 * seconds)),
    }
    return ApiError(429, message, kind="graders", code=code, headers=headers)
