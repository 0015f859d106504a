"""Graceful shutdown: running requests finish, and new ones are told to try again later."""

from starlette.types import ASGIApp, Receive, Scope, Send

from burnish.serving.errors import ApiError


class Drain:
    """Whether the server is shutting down, and how many requests are running."""

    def __init__(self) -> None:
        self.begun = False
        self.under_way = 0

    def begin(self) -> None:
        """Reject new requests from now on."""
        self.begun = True


class DrainRequests:
    """Middleware that answers 503 while the server shuts down; the official client tries again."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self.app, self.drain = app, drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self.drain.begun:
            await _leaving().response(scope, receive, send)
            return
        self.drain.under_way += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.drain.under_way -= 1


def _leaving() -> ApiError:
    return ApiError(
        503,
        "The server is shutting down. Please try again in a moment.",
        kind="server_error",
        code="shutting_down",
        headers={"retry-after": "1", "connection": "close"},
    )
