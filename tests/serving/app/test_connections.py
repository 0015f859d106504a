"""Connections that ask for nothing: real sockets against a real server on this machine."""

import asyncio
import contextlib
import io
import json
import logging
import resource
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from burnish.serving import log
from burnish.serving.app.connections import (
    Connection,
    ConnectionLimits,
    Connections,
    network_of,
    raise_open_file_limit,
)
from burnish.serving.app.listen import _Listener
from burnish.serving.middleware.drain import Drain

QUICK = ConnectionLimits(each=8, head=0.6, window=0.8, rate=1000, unread=60.0)
HALF = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-"
WHOLE = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def small_app() -> FastAPI:
    app = FastAPI()

    @app.get("/health")
    async def health() -> str:
        return "ok"

    @app.post("/count")
    async def count(request: Request) -> int:
        return len(await request.body())

    @app.get("/words")
    async def words(pieces: int = 10) -> StreamingResponse:
        async def written() -> AsyncIterator[bytes]:
            for _ in range(pieces):
                yield b"word " * 40_000
                await asyncio.sleep(1 / pieces)

        return StreamingResponse(written())

    return app


@contextlib.contextmanager
def listening(connection_limits: ConnectionLimits = QUICK, **tls: Any) -> Iterator[int]:
    """The port of a server with the application."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    given: dict[str, Any] = {"log_config": None, "ws": "none", "timeout_graceful_shutdown": 1}
    config = uvicorn.Config(small_app(), host="127.0.0.1", port=port, **given, **tls)
    server = _Listener(config, Drain(), 1.0, connection_limits)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not begin"
        time.sleep(0.005)
    try:
        yield port
    finally:
        server.should_exit = True
        thread.join()


def connected(port: int, said: bytes = b"") -> socket.socket:
    found = socket.create_connection(("127.0.0.1", port), timeout=10)
    found.sendall(said)
    return found


def healthy(port: int) -> bool:
    with connected(port, WHOLE) as own:
        return own.recv(1000).startswith(b"HTTP/1.1 200")


def seconds_until_closed(own: socket.socket) -> float:
    begun = time.monotonic()
    with contextlib.suppress(ConnectionError):
        while own.recv(65536):
            pass
    return time.monotonic() - begun


@pytest.mark.parametrize("said", [b"", HALF, b"G"])
def test_half_a_request_has_a_deadline(said: bytes) -> None:
    with listening() as port, connected(port, said) as own:
        assert 0.4 < seconds_until_closed(own) < 5
        assert healthy(port)


def test_a_head_that_drips_has_the_same_deadline() -> None:
    with listening() as port, connected(port, HALF) as own:
        begun = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < begun + 10:
                own.sendall(b"a")
                time.sleep(0.05)
        assert time.monotonic() - begun < 5


def test_the_head_after_an_answer_has_one_too() -> None:
    with listening() as port, connected(port, WHOLE) as own:
        assert own.recv(1000)
        own.sendall(HALF)
        assert seconds_until_closed(own) < 3  # uvicorn's own for an idle one is longer


POST = b"POST /count HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n"


def test_a_body_that_stops_has_a_deadline() -> None:
    with listening() as port, connected(port, POST % 5000 + b"x" * 100) as own:
        assert 0.4 < seconds_until_closed(own) < 5


def test_a_long_upload_over_a_slow_line_ends_well() -> None:
    with listening() as port, connected(port, POST % 10_000) as own:
        for _ in range(20):  # three windows, and far more than the head's deadline
            own.sendall(b"x" * 500)
            time.sleep(0.12)
        assert own.recv(1000).endswith(b"10000")


def test_who_reads_slowly_gets_the_whole_answer() -> None:
    with listening() as port, connected(port, WHOLE.replace(b"health", b"words")) as own:
        read, tail = 0, b""
        while not tail.endswith(b"0\r\n\r\n"):
            piece = own.recv(150_000)
            read, tail = read + len(piece), (tail + piece)[-10:]
            time.sleep(0.05)
        assert read > 2_000_000


def test_who_reads_nothing_is_let_go() -> None:
    impatient = replace(QUICK, unread=0.5)
    with listening(impatient) as port, contextlib.closing(socket.socket()) as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        own.connect(("127.0.0.1", port))
        own.sendall(WHOLE.replace(b"health", b"words?pieces=100"))
        time.sleep(2.5)
        own.settimeout(10)
        read = b""
        with contextlib.suppress(ConnectionError):
            while piece := own.recv(1 << 20):
                read += piece
        assert not read.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("said", [b"", HALF, POST % 5000])
def test_idle_connections_make_room(said: bytes) -> None:
    """However many one address holds open, what asks something is answered."""
    patient = replace(QUICK, head=30.0, window=30.0)
    with listening(patient) as port, contextlib.ExitStack() as held:
        many = [held.enter_context(connected(port, said)) for _ in range(20)]
        time.sleep(1.2)  # a body that stops counts as idle after a second
        assert all(healthy(port) for _ in range(20))
        closed = 0
        for own in many:
            own.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                closed += seconds_until_closed(own) >= 0
        assert closed >= 12


def test_where_all_are_busy_the_next_is_refused() -> None:
    with listening(replace(QUICK, each=2)) as port, contextlib.ExitStack() as held:
        asked = WHOLE.replace(b"health", b"words")
        busy = [held.enter_context(connected(port, asked)) for _ in range(2)]
        assert all(own.recv(10) for own in busy)
        with connected(port) as own:
            assert b"503 Service Unavailable" in own.recv(1000)


def test_a_flood_with_few_descriptors_fills_no_log() -> None:
    """More connections than there are descriptors: the server answers, and says little."""
    stream, descriptors = io.StringIO(), resource.getrlimit(resource.RLIMIT_NOFILE)
    root = logging.getLogger()
    before = root.handlers[:], log.LOGGER.handlers[:], log.LOGGER.level, log.LOGGER.propagate
    log.write_all_to(stream)
    try:
        with listening(replace(QUICK, each=64, head=30.0)) as port, contextlib.ExitStack() as held:
            for _ in range(300):
                held.enter_context(connected(port, HALF))
            assert healthy(port)
    finally:
        root.handlers[:] = before[0]
        log.LOGGER.handlers[:], log.LOGGER.level, log.LOGGER.propagate = before[1:]
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (descriptors[0], resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        )
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert {line["event"] for line in lines} == {"connection ended to make room"}
    assert [line.get("repeated") for line in lines] == [None] * 5 + [10, 100]


@pytest.mark.anyio
async def test_no_descriptors_left_is_said_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        calls = 0

        async def sock_accept(self, _: object) -> None:
            Full.calls += 1
            raise OSError(24, "Too many open files")

    async def quick(_: float) -> None:
        if Full.calls >= 100:
            raise asyncio.CancelledError

    found = Connections({}, None, QUICK, 1024)
    monkeypatch.setattr(asyncio, "get_running_loop", Full)
    monkeypatch.setattr(asyncio, "sleep", quick)
    with socket.socket() as own, contextlib.suppress(asyncio.CancelledError):
        await found._accept(own)
    assert Full.calls == 100


@pytest.mark.anyio
async def test_a_flood_leaves_turns_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    admitted = 0

    class Flooded:
        async def sock_accept(self, _: object) -> tuple[None, tuple[str, int]]:
            return None, ("127.0.0.1", 1)  # another is there at once, so nothing waits

    def admit(*_: object) -> None:
        nonlocal admitted
        admitted += 1
        if admitted == 100:
            raise asyncio.CancelledError

    found = Connections({}, None, QUICK, 1024)
    monkeypatch.setattr(found, "_admit", admit)
    with socket.socket() as own:
        task = asyncio.get_running_loop().create_task(found._accept(own))
        monkeypatch.setattr(asyncio, "get_running_loop", Flooded)
        for _ in range(10):
            await asyncio.sleep(0)
        task.cancel()
    assert 0 < admitted <= 10


def test_making_room_does_not_look_at_all_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    found, looks, ended = Connections({}, None, QUICK, 1024), 0, []

    class Idle(Connection):
        def idle_since(self, now: float) -> float | None:
            nonlocal looks
            looks += 1
            return self.since

        def end(self) -> None:
            ended.append(self.since)

    many = [Idle("a" if number % 2 else "b", QUICK) for number in range(400)]
    for number, one in enumerate(many):
        one.since = float(number)
        found._open.add(one)
        found._of[one.address] += 1
    many[4].since = 1000.0  # it has asked since
    assert all(found._make_room(None) for _ in range(100))
    assert ended == [number for number in range(101) if number != 4]
    many[104].since = 1001.0
    assert all(found._make_room("b") for _ in range(150))
    assert ended[100:102] == [102, 106]
    assert ended[-2:] == [1000, 1001]
    assert not found._make_room("b")
    assert found._make_room("a")
    assert looks < 2_000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    made = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem"), "-days", "2"]
    kind = ["-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    subprocess.run(
        ["openssl", "req", *kind, *made, "-subj", "/CN=127.0.0.1"], check=True, capture_output=True
    )
    return folder / "cert.pem"


def test_a_handshake_has_a_deadline_and_makes_room(certificate: Path) -> None:
    tls = {"ssl_certfile": certificate, "ssl_keyfile": certificate.with_name("key.pem")}
    trusted = ssl.create_default_context()
    trusted.check_hostname, trusted.verify_mode = False, ssl.CERT_NONE

    def asked(port: int) -> bytes:
        with trusted.wrap_socket(connected(port)) as own:
            own.sendall(WHOLE)
            return own.recv(1000)

    with listening(**tls) as port, connected(port, b"\x16\x03\x01") as own:
        assert 0.4 < seconds_until_closed(own) < 5
        assert asked(port).startswith(b"HTTP/1.1 200")
    patient = replace(QUICK, head=30.0)
    with listening(patient, **tls) as port, contextlib.ExitStack() as held:
        for said in (b"", b"\x16\x03\x01") * 10:
            held.enter_context(connected(port, said))
        assert asked(port).startswith(b"HTTP/1.1 200")


def test_descriptors_are_raised() -> None:
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 200));"
        "from burnish.serving.app.connections import raise_open_file_limit;"
        "print(raise_open_file_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.stdout.split() == ["200", "200", "200"]
    assert raise_open_file_limit() >= resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def test_bounds_leave_descriptors_for_all_else() -> None:
    most = [Connections({}, None, ConnectionLimits(), count)._most for count in (20, 1024, 1 << 20)]
    assert most == [16, 448, 4096]


def test_whose_connections_count_together() -> None:
    assert network_of("127.0.0.1") == network_of("::ffff:127.0.0.1") == "127.0.0.1"
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff%eth0") == "2001:db8::/64"
    assert network_of("2001:db8:0:1::1") != network_of("2001:db8::1")


def test_repeated_lines_are_counted() -> None:
    now = [0.0]
    repeats = log.Repeats(lambda: now[0])

    def written(name: str, count: int) -> list[int]:
        said = [logging.LogRecord(name, 30, "here.py", 1, "x", (), None) for _ in range(count)]
        return [getattr(one, "repeated", 0) for one in said if repeats.filter(one)]

    assert written("asyncio", 2500) == [0] * 5 + [10, 100, 1000]
    assert written("uvicorn.error", 3) == [0] * 3
    assert len(written(log.LOGGER.name, 2500)) == 2500  # requests are all told
    now[0] = 61.0
    assert written("asyncio", 1) == [0]
