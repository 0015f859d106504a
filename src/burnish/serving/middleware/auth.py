"""Authentication: each request's API key, its scope and its rate limits are checked before any
route."""

import ipaddress
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Literal
from urllib.parse import urlsplit

from anyio import CapacityLimiter, to_thread
from sqlalchemy.orm import Session
from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as AsgiScope

from burnish.serving.errors import ApiError, forbidden, unauthorized
from burnish.serving.middleware.request_state import KEY, usage_in
from burnish.serving.state import keys
from burnish.serving.state.keys import Key, Limiter, Scope

Sessions = Callable[[], AbstractContextManager[Session]]
# `open` needs no key, `known` any key.
Access = Scope | Literal["open", "known"]

# Threads that look keys up; no other work shares them, so that none can keep a request out.
_THREADS = 2
_NO_KEY = (
    "You didn't provide an API key. Provide it in an Authorization header using Bearer auth "
    "(i.e. Authorization: Bearer YOUR_KEY)."
)
_NO_KEYS = (
    "This server has no API keys, so it only answers requests to a loopback address. "
    "Create a key with `burnish keys make NAME`."
)
_FORWARDED = (
    "This request came through a proxy: it has the header {header}. A server without API keys "
    "only answers its own machine, and cannot identify clients behind a proxy. "
    "Create a key with `burnish keys make NAME` and send it with each request."
)
# What proxies, load balancers, tunnels and content networks add; clients send none of it.
_PROXIES = re.compile(
    r"(x-)?forwarded(-.+)?|x-original-.+|via|cdn-loop|x-real-ip|(.+-)?(client|connecting)-?ip"
    r"|x-remote-(ip|addr)|x-proxyuser-ip|(cf|fly|x-envoy|x-azure|x-vercel|x-appengine|tailscale)-.+"
    r"|x-amz(n-trace|-cf)-id|x-cloud-trace-context|ngrok-.+|x-(arr|traefik)-.+|x-varnish"
    r"|x-nginx-proxy|(x-)?(url-)?scheme|front-end-https|surrogate-capability|max-forwards"
)
_ELSEWHERE = (
    "Cross-origin browser requests are not allowed. Send the request from a program instead."
)
_RULES: tuple[tuple[str, str, Access], ...] = (
    ("GET|HEAD", r"/health", "open"),
    ("GET|HEAD", r"/metrics", "admin"),
    (".*", r"/v1/fine_tuning/checkpoints/.+/permissions(/.*)?", "admin"),
    (".*", r"/v1/(files|uploads|fine_tuning)(/.*)?", "tune"),
    ("DELETE", r"/v1/models/.+", "tune"),
    ("GET", r"/v1/models(/.*)?", "known"),
    ("GET", r"/v1/chat/completions", "infer"),
    ("POST", r"/v1/(chat/completions|completions|embeddings)", "infer"),
    ("GET|HEAD", r"/openapi\.json", "known"),
)
_COMPILED = [
    (re.compile(methods), re.compile(path, re.DOTALL), access) for methods, path, access in _RULES
]


def needed(method: str, path: str) -> Access | None:
    """Return the scope that a request needs; None if no rule matches."""
    for methods, paths, access in _COMPILED:
        if methods.fullmatch(method) and paths.fullmatch(path):
            return access
    return None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    name = host.removeprefix("[").removesuffix("]").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class Authentication:
    """Middleware that admits a request with a valid key of the required scope, and rejects all
    others.

    No key is needed only where no key was ever made, or keys were turned off since, and the server
    listens on a loopback address, is called by such a name (a web page that another name was
    pointed here for is not), by no proxy and by no web page of another place. A route that no rule
    speaks of is for admins.

    Args:
        app: what is guarded.
        sessions: opens a session of the database.
        host: the address that the server listens on.
        limiter: of requests and tokens; one a process.
    """

    def __init__(
        self, app: ASGIApp, sessions: Sessions, host: str, limiter: Limiter | None = None
    ) -> None:
        self.app, self.sessions = app, sessions
        self.limiter = limiter or Limiter()
        self.private = is_loopback(host)
        self._threads = CapacityLimiter(_THREADS)

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            key = await self._identified(scope)
            left = self.limiter.admit(key) if key else {}
        except ApiError as error:
            await error.response(scope, receive, send)
            return
        scope[KEY] = key
        try:
            await self.app(scope, receive, _adding(left, send))
        finally:
            if key:
                self.limiter.spend(key, usage_in(scope).tokens)

    async def _identified(self, scope: AsgiScope) -> Key | None:
        access = needed(scope["method"], scope["path"])
        if access == "open":
            return None
        headers = Headers(scope=scope)
        kind, _, secret = headers.get("authorization", "").partition(" ")
        secret = secret.strip() if kind.lower() == "bearer" else ""
        key = await to_thread.run_sync(self._known, secret, headers, limiter=self._threads)
        if access is None:
            access = "admin" if _is_route(scope) else "known"
        if key is not None and access != "known" and not key.may(access):
            raise forbidden(f"This key lacks the required scope {access}.")
        return key

    def _known(self, secret: str, headers: Headers) -> Key | None:
        with self.sessions() as session:
            key = keys.known(session, secret) if secret else None
            if key is not None:
                return key
            required = keys.required(session)
        if required:
            raise unauthorized("Incorrect API key provided." if secret else _NO_KEY)
        called = re.sub(r":\d+$", "", headers.get("host", ""))
        if not (self.private and is_loopback(called)):
            raise unauthorized(_NO_KEYS, "no_api_keys")
        if (proxy := _proxy_header(headers)) is not None:
            raise unauthorized(_FORWARDED.format(header=proxy), "came_through_proxy")
        if _is_elsewhere(headers):
            raise ApiError(403, _ELSEWHERE, code="cross_site_request")
        return None


def _proxy_header(headers: Headers) -> str | None:
    """The first header that only a proxy adds."""
    return next((name for name in headers if _PROXIES.fullmatch(name.replace("_", "-"))), None)


def _is_elsewhere(headers: Headers) -> bool:
    """Whether a browser sends it for a page that is not this server's own; other clients say so
    little that they are not meant."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
    own = origin is None or urlsplit(origin).netloc == headers.get("host")
    return not own or site not in ("none", "same-origin")


def _is_route(scope: AsgiScope) -> bool:
    routes = getattr(scope.get("app"), "routes", ())
    return any(route.matches(scope)[0] is not Match.NONE for route in routes)


def _adding(headers: dict[str, str], send: Send) -> Send:
    async def adding(message: Message) -> None:
        """Add the rate limit headers to the start of the response."""
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(headers)
        await send(message)

    return adding if headers else send
