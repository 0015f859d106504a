"""How large and how deep a request may be, counted while it arrives."""

import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from burnish.serving.api.errors import ApiError, invalid

_MARKS = re.compile(rb'\\.|["\[\]{}]', re.DOTALL)
_FILES = re.compile(r"/v1/(files|uploads/[^/]+/parts)")
_DEEPER, _HIGHER = (b"[", b"{"), (b"]", b"}")


class Depth:
    """The nesting of a JSON text that comes in pieces; brackets inside strings do not count."""

    def __init__(self) -> None:
        self.deepest = self._depth = 0
        self._quoted = False
        self._rest = b""

    def feed(self, piece: bytes) -> None:
        piece = self._rest + piece
        # A backslash at the end belongs to the character that comes with the next piece.
        slashes = len(piece) - len(piece.rstrip(b"\\"))
        self._rest = b"\\" if slashes % 2 else b""
        for match in _MARKS.finditer(piece.removesuffix(self._rest) if self._rest else piece):
            mark = match[0]
            if mark == b'"':
                self._quoted = not self._quoted
            elif not self._quoted and mark in _DEEPER:
                self._depth += 1
                self.deepest = max(self.deepest, self._depth)
            elif not self._quoted and mark in _HIGHER:
                self._depth -= 1


class Limits:
    """Middleware that refuses a body that is too large (413) or nested too deep (400).

    It reads nothing ahead: an upload passes through in its pieces, and the first one too many
    ends it, whatever length its headers told.

    Args:
        app: what is protected.
        body: bytes of a request.
        form: bytes of a request that brings a file, to a route that takes one.
        depth: objects and lists inside one another in JSON.
    """

    def __init__(
        self, app: ASGIApp, body: int = 16 << 20, form: int = 520 << 20, depth: int = 64
    ) -> None:
        self.app, self.body, self.form, self.depth = app, body, form, depth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        brings_file = _brings_file(scope, headers)
        request = _Request(
            receive, send, self.form if brings_file else self.body, self.depth, brings_file
        )
        told = headers.get("content-length", "")
        if told.isdecimal() and int(told) > request.size:
            await _too_large(request.size).response(scope, receive, send)
            return
        try:
            await self.app(scope, request.receive, request.send)
        # The refusal itself, or what a framework made of it on its way.
        except Exception:
            if request.refusal is None:
                raise
        if request.refusal is not None and not request.started:
            await request.refusal.response(scope, receive, send)


class _Request:
    """One request on its way: what it brought so far, and why it was refused if it was."""

    def __init__(
        self, receive: Receive, send: Send, size: int, depth: int, brings_file: bool
    ) -> None:
        self._receive, self._send = receive, send
        self.size, self.depth = size, depth
        self.nesting = None if brings_file else Depth()
        self.read, self.started = 0, False
        self.refusal: ApiError | None = None

    async def receive(self) -> Message:
        message = await self._receive()
        piece = message.get("body", b"")
        self.read += len(piece)
        if self.read > self.size:
            self.refusal = _too_large(self.size)
        elif self.nesting is not None and piece:
            self.nesting.feed(piece)
            if self.nesting.deepest > self.depth:
                said = f"The JSON is nested deeper than {self.depth} levels."
                self.refusal = invalid(said, code="json_too_deep")
        if self.refusal is not None:
            raise self.refusal
        return message

    async def send(self, message: Message) -> None:
        """What the route says to a refused body is dropped: frameworks answer on their own."""
        if self.refusal is not None and not self.started:
            return
        self.started = True
        await self._send(message)


def _brings_file(scope: Scope, headers: Headers) -> bool:
    is_form = headers.get("content-type", "").lower().startswith("multipart/")
    return is_form and scope["method"] == "POST" and bool(_FILES.fullmatch(scope["path"]))


def _too_large(size: int) -> ApiError:
    return ApiError(
        413, f"The request is larger than the {size} bytes allowed.", code="request_too_large"
    )
