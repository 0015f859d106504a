"""The server's connections: how many may be open, and how long each may take.

They are accepted here and not by asyncio, which would take as many as there are descriptors, and
then say so without end.
"""

import asyncio
import ipaddress
import logging
import resource
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

_LOG = logging.getLogger("burnish.serving.app.connections")
_HTTP: Any = AutoHTTPProtocol  # uvicorn's own, by what is installed
# Descriptors for all else: the database, libraries, the worker; a connection may need two of them,
# one for the file that it brings or takes.
_OTHERS, _EACH = 128, 2
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n"
    b"content-length: 0\r\n\r\n"
)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits of one connection and of all connections together.

    Attributes:
        each: connections of one address; of IPv6, one network of 64 bits.
        all: connections together; fewer where there are not so many descriptors.
        head: seconds for the TLS handshake, and again for the head of a request.
        window: seconds in each of which a body must bring `rate` bytes a second on average, so that
            a long upload over a slow line ends well, and one that has stopped ends.
        rate: bytes a second.
        unread: seconds in which a client may read nothing of an answer.
    """

    each: int = 512
    all: int = 4096
    head: float = 10.0
    window: float = 20.0
    rate: int = 1024
    unread: float = 300.0


def raise_open_file_limit() -> int:
    """Raise this process's limit of open files as far as allowed, and return the new limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1 << 20 if hard == resource.RLIM_INFINITY else hard
    if wanted > soft:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):  # a system may allow less than it says
            return soft
    return max(soft, wanted)


class Connection:
    """One accepted connection, with the times at which it was active."""

    def __init__(self, address: str, connection_limits: ConnectionLimits) -> None:
        self.address, self._limits = address, connection_limits
        self.protocol: Any = None
        self.task: asyncio.Task[None] | None = None
        self.since = self.heard = self._window = time.monotonic()
        self._brought = self._left = 0
        self._stuck = self.since
        self._asked = False  # whether anything came since the last answer

    def made(self, protocol: Any) -> None:
        """Record that the handshake is complete."""
        self.protocol, self.since = protocol, time.monotonic()

    def received(self, size: int) -> None:
        """Record that `size` bytes arrived."""
        self.heard = time.monotonic()
        self._brought += size
        if self.waits and not self._asked:
            self._asked, self.since = True, self.heard

    def answered(self) -> None:
        """Record that an answer is complete, so that the next request may arrive."""
        self.since, self._asked = time.monotonic(), False
        self._begin_window(self.since)

    @property
    def waits(self) -> bool:
        """Whether no whole head of a request has come since the last answer."""
        cycle = self.protocol and self.protocol.cycle
        return cycle is None or cycle.response_complete

    @property
    def brings(self) -> bool:
        """Whether a body is on its way."""
        return not self.waits and self.protocol.cycle.more_body

    @property
    def unread(self) -> int:
        """Bytes of answers that wait for the client to read them."""
        return int(self.protocol.transport.get_write_buffer_size()) if self.protocol else 0

    def idle_since(self, now: float) -> float | None:
        """Since when it keeps its place for nothing; None where it does not."""
        if self.unread:
            return None
        if self.waits:
            return self.since
        return self.heard if self.brings and now - self.heard > 1 else None

    def is_late(self, now: float) -> bool:
        """Whether it has taken longer than it may."""
        if self.protocol is None:
            return False  # asyncio's own deadline ends a handshake
        if self.waits:
            self._begin_window(now)
        if self.unread:  # an answer may be over and still be on its way to a slow reader
            return self._is_unread(now)
        return now - self.since > self._limits.head if self.waits else self._is_slow(now)

    def _is_slow(self, now: float) -> bool:
        if not self.brings or self.protocol.flow.read_paused:  # it is we who are slow
            self._begin_window(now)
            return False
        if now - self._window < self._limits.window:
            return False
        slow = self._brought < self._limits.rate * self._limits.window
        self._begin_window(now)
        return slow

    def _begin_window(self, now: float) -> None:
        self._window, self._brought = now, 0

    def _is_unread(self, now: float) -> bool:
        if self.unread != self._left:
            self._left, self._stuck = self.unread, now
        return now - self._stuck > self._limits.unread

    def end(self) -> None:
        """Close the connection and free its file descriptor at once."""
        if self.protocol is not None:
            self.protocol.transport.abort()
        elif self.task is not None:
            self.task.cancel()


class _TimedProtocol(_HTTP):  # type: ignore[misc]
    """uvicorn's HTTP protocol, which reports its progress to its connection."""

    def __init__(self, *given: Any, connection: Connection, lost: Callable[[], None], **more: Any):
        super().__init__(*given, **more)
        self._connection, self._lost = connection, lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Record the handshake, besides what uvicorn does."""
        super().connection_made(transport)
        self._connection.made(self)

    def data_received(self, data: bytes) -> None:
        """Record the bytes that arrived, besides what uvicorn does."""
        self._connection.received(len(data))
        super().data_received(data)

    def on_response_complete(self) -> None:
        """Record the end of an answer, besides what uvicorn does."""
        super().on_response_complete()
        self._connection.answered()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection, besides what uvicorn does."""
        super().connection_lost(exc)
        self._lost()


class Connections:
    """All connections of a server, and the sockets on which they are accepted.

    Where there are as many as there may be, the one that has said nothing for longest makes room,
    so that who opens many and asks nothing keeps nobody out.

    Args:
        protocol: what uvicorn makes its protocol with.
        tls: of a server that speaks TLS.
        patience: what each may take.
        descriptors: that this process may open.
    """

    def __init__(
        self,
        protocol: dict[str, Any],
        tls: ssl.SSLContext | None,
        connection_limits: ConnectionLimits,
        descriptors: int,
    ) -> None:
        self._protocol, self._tls, self._limits = protocol, tls, connection_limits
        self._most = min(connection_limits.all, max(16, (descriptors - _OTHERS) // _EACH))
        self._open: set[Connection] = set()
        self._of: Counter[str] = Counter()
        self._found_idle: dict[str | None, list[tuple[float, Connection]]] = {}
        self._sockets: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []

    def listen(self, host: str, port: int, backlog: int) -> None:
        """Listen on every address of the host.

        Raises:
            OSError: the address is not this machine's, or is taken.
        """
        for family, *_, place in _addresses(host, port):
            own = socket.create_server(place[:2], family=family, backlog=backlog)
            own.setblocking(False)
            self._sockets.append(own)
        loop = asyncio.get_running_loop()
        self._accepting = [loop.create_task(self._accept(own)) for own in self._sockets]

    def end_late(self) -> None:
        """Close connections that exceeded a time limit; call it several times per second."""
        now = time.monotonic()
        for one in [one for one in self._open if one.is_late(now)]:
            _LOG.warning("connection too slow")
            one.end()

    def close(self) -> None:
        """Accepts no more, as uvicorn asks of a server at its end."""
        for task in self._accepting:
            task.cancel()
        for own in self._sockets:
            own.close()

    async def wait_closed(self) -> None:
        """Wait until no more connections are accepted."""
        await asyncio.gather(*self._accepting, return_exceptions=True)

    async def _accept(self, own: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, place = await loop.sock_accept(own)
            except OSError as error:
                _LOG.warning("cannot accept connections", exc_info=error)
                self._make_room(None)
                await asyncio.sleep(0.1)  # it would fail again at once
                continue
            self._admit(accepted, network_of(str(place[0])))
            # sock_accept does not wait where a connection is there: a flood would keep all others.
            await asyncio.sleep(0)

    def _admit(self, accepted: socket.socket, address: str) -> None:
        full = self._of[address] >= self._limits.each
        crowded = full or len(self._open) >= self._most
        if crowded and not self._make_room(address if full else None):
            _LOG.warning("too many connections")
            _refuse(accepted, plain=self._tls is None)
            return
        one = Connection(address, self._limits)
        self._open.add(one)
        self._of[address] += 1
        one.task = asyncio.get_running_loop().create_task(self._connect(one, accepted))
        one.task.add_done_callback(partial(self._connected, one, accepted))

    async def _connect(self, one: Connection, accepted: socket.socket) -> None:
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: _TimedProtocol(
                **self._protocol, connection=one, lost=lambda: self._forget(one)
            ),
            accepted,
            ssl=self._tls,
            ssl_handshake_timeout=self._limits.head if self._tls else None,
        )

    def _connected(
        self, one: Connection, accepted: socket.socket, task: "asyncio.Task[None]"
    ) -> None:
        """Here, since a task that is cancelled before it begins runs nothing of its own."""
        if task.cancelled() or task.exception() is not None:  # of its handshake, as a rule
            accepted.close()
            self._forget(one)

    def _forget(self, one: Connection) -> None:
        if one in self._open:
            self._open.remove(one)
            self._of[one.address] -= 1
            if not self._of[one.address]:
                del self._of[one.address]
                self._found_idle.pop(one.address, None)

    def _make_room(self, address: str | None) -> bool:
        """Ends the one that keeps its place for nothing the longest, of that address if any."""
        longest = self._longest_idle(address)
        if longest is None:
            return False
        self._forget(longest)
        longest.end()
        _LOG.warning("connection ended to make room")
        return True

    def _longest_idle(self, address: str | None) -> Connection | None:
        """All are looked at only when those found before are used up: who opens thousands a second
        asks as often."""
        now = time.monotonic()
        for result in (self._found_idle.get(address, []), None):
            if result is None:
                result = sorted(self._idle(address), key=lambda each: each[0], reverse=True)
                self._found_idle[address] = result
            while result:
                since, one = result.pop()
                if one in self._open and one.idle_since(now) == since:
                    return one
        del self._found_idle[address]
        return None

    def _idle(self, address: str | None) -> Iterator[tuple[float, Connection]]:
        now = time.monotonic()
        for one in self._open:
            if address in (None, one.address) and (since := one.idle_since(now)) is not None:
                yield since, one


def network_of(host: str) -> str:
    """Return the network whose connections are counted together: an IPv4 address, or an IPv6
    network of 64 bits, all of whose addresses one machine may use."""
    try:
        result = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(result, ipaddress.IPv4Address):
        return str(result)
    if result.ipv4_mapped:
        return str(result.ipv4_mapped)
    return str(ipaddress.ip_network((result, 64), strict=False))


def _addresses(host: str, port: int) -> list[Any]:
    flags = socket.AI_PASSIVE
    return list(dict.fromkeys(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)))


def _refuse(accepted: socket.socket, *, plain: bool) -> None:
    with accepted:
        if plain:
            try:
                accepted.setblocking(False)
                accepted.send(_REFUSAL)
            except OSError:  # it is gone already
                return
