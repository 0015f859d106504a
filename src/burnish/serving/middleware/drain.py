"""The orderly end: what is under way ends, what comes new is told to come back."""

from starlette.types import ASGIApp, Receive, Scope, Send

from burnish.serving.errors import ApiError


class Drain:
    """Whether the server is on its way out, and how many requests are under way."""

    def __init__(self) -> None:
        self.begun = False
        self.under_way = 0

    def begin(self) -> None:
        """From now on new requests are refused."""
        self.begun = True


class DrainRequests:
    """Middleware that answers 503 once the end has begun; the official client tries again."""

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
