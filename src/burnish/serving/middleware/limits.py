"""Limits on the size, nesting and number of request bodies, enforced while they arrive."""

import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from burnish.serving.errors import ApiError, invalid
from burnish.serving.middleware.request_state import BODY, SHORT

# A string, to its end or that of the piece.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+("|\Z)', re.DOTALL)
_BRACKETS = re.compile(rb"[\[\]{}]")
_FILES = re.compile(r"/v1/(files|uploads/[^/]+/parts)")
# Their prompts may be millions of token ids.
_TOKENS = re.compile(r"/v1/(completions|embeddings)")


class Shape:
    """Nesting and number of values of a JSON text that comes in pieces; what strings hold does not
    count.

    Attributes:
        deepest: objects and lists inside one another.
        values: members, items and their objects and lists; without `items` those of lists are not
            counted.
    """

    def __init__(self, *, items: bool = True) -> None:
        self.deepest = self.values = self._depth = 0
        self._marks = b"[{:," if items else b"[{:"
        self._quoted = False
        self._rest = b""

    def feed(self, piece: bytes) -> None:
        """Read the next piece of the JSON text."""
        piece = self._rest + piece
        # A backslash at the end belongs to the character that comes with the next piece.
        slashes = len(piece) - len(piece.rstrip(b"\\"))
        self._rest = b"\\" if slashes % 2 else b""
        piece = piece.removesuffix(self._rest) if self._rest else piece
        bare = _STRING.sub(self._ended, b'"' + piece if self._quoted else piece)
        self.values += sum(bare.count(mark) for mark in map(bytes, zip(self._marks, strict=True)))
        for match in _BRACKETS.finditer(bare):
            if match[0] in b"[{":
                self._depth += 1
                self.deepest = max(self.deepest, self._depth)
            else:
                self._depth -= 1

    def _ended(self, string: re.Match[bytes]) -> bytes:
        self._quoted = not string[1]
        return b""


class Limits:
    """Middleware that refuses a body that is too large (413), nested too deep or made of too many
    values (400), or that comes while too many others are being read (503).

    It reads nothing ahead: an upload passes through in its pieces, and the first one too many
    ends it, whatever length its headers told.

    Args:
        app: what is protected.
        body: bytes of a request.
        form: bytes of a request that brings a file, to a route that takes one.
        depth: objects and lists inside one another in JSON.
        values: members and items in JSON, but for lists of tokens. Each that is wrong becomes an
            error of a kilobyte before the first of them is told.
        together: bytes of all bodies that are being read and prepared; short ones, and files,
            which go to the disk, do not count.
    """

    def __init__(
        self,
        app: ASGIApp,
        body: int = 16 << 20,
        form: int = 520 << 20,
        depth: int = 64,
        values: int = 120_000,
        together: int = 32 << 20,
    ) -> None:
        self.app, self.body, self.form, self.depth = app, body, form, depth
        self.values, self.together, self.held = values, together, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = scope[BODY] = _Request(self, scope, receive, send)
        told = Headers(scope=scope).get("content-length", "")
        if told.isdecimal() and int(told) > request.size:
            await _too_large(request.size).response(scope, receive, send)
            return
        try:
            await self.app(scope, request.receive, request.send)
        # The refusal itself, or what a framework made of it on its way.
        except Exception:
            if request.refusal is None:
                raise
        finally:
            request.release()
        if request.refusal is not None and not request.started:
            await request.refusal.response(scope, receive, send)


class _Request:
    """One request on its way: what it brought so far, and why it was refused if it was."""

    def __init__(self, limits: Limits, scope: Scope, receive: Receive, send: Send) -> None:
        self._limits, self._receive, self._send = limits, receive, send
        brings_file = _brings_file(scope)
        self.size = limits.form if brings_file else limits.body
        has_tokens = bool(_TOKENS.fullmatch(scope["path"]))
        self.shape = None if brings_file else Shape(items=not has_tokens)
        self.read, self.held, self.started = 0, 0, False
        self.refusal: ApiError | None = None

    async def receive(self) -> Message:
        """Receive the next part of the request, and raise the error if it exceeds a limit."""
        message = await self._receive()
        piece = message.get("body", b"")
        self.read += len(piece)
        self.refusal = self.refusal or self._objection(piece)
        if self.refusal is not None:
            raise self.refusal
        return message

    def release(self) -> None:
        """Stop counting the body among those in memory."""
        self._limits.held -= self.held
        self.held = 0

    def _objection(self, piece: bytes) -> ApiError | None:
        if self.read > self.size:
            return _too_large(self.size)
        if self.shape is None or not piece:
            return None
        if self.read > SHORT:
            self._limits.held += self.read - self.held
            self.held = self.read
            if self._limits.held > self._limits.together:
                return _too_many()
        self.shape.feed(piece)
        if self.shape.deepest > self._limits.depth:
            message = f"The JSON is nested deeper than {self._limits.depth} levels."
            return invalid(message, None, "json_too_deep")
        if self.shape.values > self._limits.values:
            message = f"The JSON has more than {self._limits.values} values."
            return invalid(message, None, "json_too_large")
        return None

    async def send(self, message: Message) -> None:
        """What the route says to a refused body is dropped: frameworks answer on their own."""
        if self.refusal is not None and not self.started:
            return
        self.started = True
        await self._send(message)


def _brings_file(scope: Scope) -> bool:
    is_form = Headers(scope=scope).get("content-type", "").lower().startswith("multipart/")
    return is_form and scope["method"] == "POST" and bool(_FILES.fullmatch(scope["path"]))


def _too_large(size: int) -> ApiError:
    return ApiError(
        413, f"The request is larger than the {size} bytes allowed.", code="request_too_large"
    )


def _too_many() -> ApiError:
    return ApiError(
        503,
        "The server cannot hold more large requests in memory. Please try again in a moment.",
        kind="server_error",
        code="overloaded",
        headers={"retry-after": "1"},
    )
