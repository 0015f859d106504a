"""The server process: it listens on an address, supervises a worker and shuts down in order."""

import gc
import json
import logging
import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn
from sqlalchemy.orm import Session
from uvicorn.config import STARTUP_FAILURE

from burnish.errors import UserError
from burnish.serving.app.app import make_app
from burnish.serving.app.connections import ConnectionLimits, Connections, raise_open_file_limit
from burnish.serving.catalog.server import Server
from burnish.serving.jobs.process import LOCAL, PATIENCE, JobRunner
from burnish.serving.middleware.auth import is_loopback
from burnish.serving.middleware.drain import Drain
from burnish.serving.state import keys
from burnish.serving.state.installation import Settings

# Seconds that a worker gets to end: more than it gives its job, which it gives back after that.
_GIVE_BACK = PATIENCE + 30.0
# Seconds between looks whether it runs, and until one that was killed is started again.
_LOOK, _AGAIN = 0.5, 1.0
# Of a tenth of a second each, between looks for connections that take too long.
_TICKS = 5
_MISTAKE = 2  # its exit code after an error that it has explained
_LOG = logging.getLogger("burnish.server")


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server listens; with a certificate and its key it speaks TLS."""

    host: str = "127.0.0.1"
    port: int = 8000
    certificate: Path | None = None
    key: Path | None = None

    @property
    def url(self) -> str:
        """The base URL for clients."""
        kind = "https" if self.certificate else "http"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{kind}://{host}:{self.port}/v1"


def check(address: Address, session: Session) -> None:
    """Check the address, the certificate and the API keys before a model is loaded.

    Raises:
        UserError: others could reach the server without a key, a file is missing, or the port is
            taken.
    """
    if not is_loopback(address.host) and not keys.any_active(session):
        raise UserError(
            f"host is {address.host} and there are no API keys, so anyone could use the server",
            "create a key with `burnish keys make NAME`, or listen on 127.0.0.1",
            code="no_api_keys",
            host=address.host,
        )
    if (address.certificate is None) != (address.key is None):
        raise UserError(
            "TLS needs both a certificate and its key",
            "pass both --tls-cert and --tls-key",
            code="half_of_tls",
        )
    for path in (address.certificate, address.key):
        if path is not None and not path.is_file():
            raise UserError(
                f"the file {path} does not exist",
                "pass the files of the certificate and its key",
                code="file_missing",
                path=str(path),
            )
    _check_free(address)


def _check_free(address: Address) -> None:
    """It may be taken a moment later still; then the server's own error says so."""
    try:
        result = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, place = result[0]
        with socket.socket(family, kind, protocol) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(place)
    except OSError as error:
        raise UserError(
            f"the server cannot listen on port {address.port} of {address.host} "
            f"({error.strerror or error})",
            "choose a free port with --port, and an address of this machine with --host",
            code="cannot_listen",
            host=address.host,
            port=address.port,
        ) from error


def listen(
    server: Server,
    address: Address,
    drain: float = 30.0,
    connection_limits: ConnectionLimits | None = None,
) -> None:
    """Serve requests until SIGTERM or Ctrl-C.

    Answers under way then get `drain` seconds to end, and new requests a 503; a second signal cuts
    them short. `connection_limits` bounds what each connection may take.
    """
    app = make_app(server, address.host, drain)
    _freeze_gc()
    config = uvicorn.Config(
        app,
        host=address.host,
        port=address.port,
        ssl_certfile=address.certificate,
        ssl_keyfile=address.key,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here goes by what a proxy says of an address
        timeout_graceful_shutdown=1,
        ws="none",
    )
    _Listener(config, app.state.drain, drain, connection_limits or ConnectionLimits()).run()


def _freeze_gc() -> None:
    """Exclude the imported modules from garbage collection, which pauses all answers.

    The imported libraries are more than half a million objects that stay to the end, and to look
    through them takes some tenths of a second each time.
    """
    gc.collect()
    gc.freeze()
    gc.collect()  # how soon the next one comes depends on how much this one finds alive


class _Listener(uvicorn.Server):
    """Goes on listening while it drains, so that clients are told and not just cut off."""

    def __init__(
        self,
        config: uvicorn.Config,
        drain: Drain,
        seconds: float,
        connection_limits: ConnectionLimits,
    ) -> None:
        super().__init__(config)
        self.drain, self.seconds, self.deadline = drain, seconds, math.inf
        self.connection_limits = connection_limits
        self.connections: Connections | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, but with connections that are counted and have deadlines."""
        del sockets
        await self.lifespan.startup()
        config = self.config
        protocol = {
            "config": config,
            "server_state": self.server_state,
            "app_state": self.lifespan.state,
        }
        result = Connections(protocol, config.ssl, self.connection_limits, raise_open_file_limit())
        try:
            result.listen(config.host, config.port, config.backlog)
        except OSError as error:
            _LOG.error("cannot listen on port %s", config.port, exc_info=error)
            await self.lifespan.shutdown()
            sys.exit(STARTUP_FAILURE)
        self.connections = result
        self.servers = [result]  # type: ignore[list-item]
        self.started = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The signal ends with this: raised again, as uvicorn would, it would leave the worker
        process to be killed."""
        if self.drain.begun:
            self.should_exit = self.force_exit = True
        self.drain.begin()
        self.deadline = time.monotonic() + self.seconds

    async def on_tick(self, counter: int) -> bool:
        """Close connections that exceeded a time limit, and exit once the server has drained."""
        if self.connections is not None and counter % _TICKS == 0:
            self.connections.end_late()
        late = time.monotonic() > self.deadline
        if self.drain.begun and (late or not self.drain.under_way):
            self.should_exit = True
        return await super().on_tick(counter)


@contextmanager
def embedded_worker(
    settings: Settings, database: str | None, engine: JobRunner = LOCAL
) -> Iterator[None]:
    """Run a worker in its own process, which stops when the block ends or this process dies."""
    command = [sys.executable, "-P", "-m", "burnish.cli", "worker"]
    command += ["--folder", str(settings.folder), "--organization", settings.organization]
    command += ["--database", database] if database else []
    for name, source in settings.models.items():
        command += ["--model", f"{name}={source}"]
    for key, value in settings.recipe.items():
        command += ["--set", f"{key}={json.dumps(value)}"]
    if engine != LOCAL:
        command += ["--engine", "ray"]
        command += ["--address", engine[1]] if len(engine) > 1 else []
    command += ["--parent", str(os.getpid())]
    over = threading.Event()
    # A worker ends when the thread that started it does, so one thread keeps it to the end.
    keeper = threading.Thread(target=_supervise, args=(command, over), name="embedded worker")
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()


def _supervise(command: Sequence[str], over: threading.Event) -> None:
    """A worker that was killed is started again; one that ended with a user error is not."""
    while True:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
        while process.poll() is None and not over.wait(_LOOK):
            pass
        if over.is_set():
            _end(process)
            return
        _LOG.warning("the worker ended with %s", process.returncode)
        if process.returncode == _MISTAKE or over.wait(_AGAIN):
            return


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(_GIVE_BACK)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
