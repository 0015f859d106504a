"""The outermost middleware: it numbers, times, counts and logs each request."""

import time
import uuid
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from burnish.serving import log
from burnish.serving.errors import failed
from burnish.serving.middleware.metrics import Metrics
from burnish.serving.middleware.request_state import key_of, recorded, usage_in

_CLOSED = 499  # the client went away before an answer began, as nginx writes it


class RequestLog:
    """Middleware; the answer's headers carry `x-request-id`, which the official client shows.

    Args:
        app: what is observed, the guard included.
        metrics: where it is counted.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, request_id = time.perf_counter(), f"req_{uuid.uuid4().hex}"
        status = _CLOSED

        async def sending(message: Message) -> None:
            """Note the status and add the request's id to the response."""
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, sending)
        except Exception as error:
            log.failed("error", error, request_id=request_id, route=_route(scope))
            if status != _CLOSED:  # an answer has begun, and must be seen to break off
                status = 500
                raise
            # Here, since the framework would answer outside of this, without the number.
            await failed().response(scope, receive, sending)
        finally:
            self._done(scope, request_id, status, time.perf_counter() - started)

    def _done(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        route, usage = _route(scope), usage_in(scope)
        self.metrics.answered(route, status, seconds, usage)
        key = key_of(HTTPConnection(scope))
        fields: dict[str, Any] = {
            "request_id": request_id,
            "method": scope["method"],
            "route": route,
            "status": status,
            "seconds": round(seconds, 4),
            "key_id": key.id if key else None,
        }
        if usage.tokens:
            fields |= {
                "first_token": usage.first,
                "prompt_tokens": usage.prompt,
                "cached_tokens": usage.cached,
                "generated_tokens": usage.generated,
            }
        log.note("request", **fields)
        if (said := recorded(scope)) is not None:
            log.texts(request_id, said)


def _route(scope: Scope) -> str:
    """The pattern, such as `/files/{file_id}`; a path that is no route has no name of its own."""
    return str(getattr(scope.get("route"), "path", "none"))
