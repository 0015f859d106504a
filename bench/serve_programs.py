"""What the benches of the server share: its processes, and how an answer is asked for and timed."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

_STARTS = 180.0  # seconds; a busy machine imports slowly
HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Served:
    """A server that answers under `url`, which ends in /v1."""

    url: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def pause(self) -> None:
        """It takes no time of the machine until `go_on`."""
        self._send(signal.SIGSTOP)

    def go_on(self) -> None:
        self._send(signal.SIGCONT)

    def kill(self) -> None:
        self._send(signal.SIGKILL)
        self.process.wait()

    def _send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


@dataclass(frozen=True, slots=True)
class Timed:
    """One streamed answer: seconds to its first text and to its end, and what came."""

    first: float
    whole: float
    tokens: int
    text: str


def free_port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def serving(
    command: Sequence[str], port: int, log: Path, threads: int | None = None
) -> Iterator[Served]:
    """The command as a process that answers on the port; killed with all it started at the end."""
    server = started(command, port, log, threads)
    try:
        wait_until_healthy(server)
        yield server
    finally:
        server.go_on()
        server.kill()


def started(command: Sequence[str], port: int, log: Path, threads: int | None = None) -> Served:
    """The process, which may not answer yet."""
    source = str(Path(__file__).parents[1] / "src")
    paths = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    variables = {"PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"}
    if threads:
        variables["OMP_NUM_THREADS"] = str(threads)
    with log.open("ab") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=os.environ | variables,
            process_group=0,
        )
    return Served(f"http://{HOST}:{port}/v1", process, log)


def wait_until_healthy(server: Served) -> None:
    health, ends = server.url.removesuffix("/v1") + "/health", time.monotonic() + _STARTS
    while time.monotonic() < ends:
        if server.process.poll() is not None:
            break
        with contextlib.suppress(httpx2.HTTPError):
            if httpx2.get(health, timeout=5).status_code == 200:
                return
        time.sleep(0.1)
    raise SystemExit(f"the server did not start:\n{server.log.read_text()[-2000:]}")


def burnish(folder: Path, port: int, *more: str) -> list[str]:
    """The command of our server, without a worker beside it."""
    own = ["serve", "--folder", str(folder), "--port", str(port), "--no-worker"]
    return [sys.executable, "-m", "burnish.cli", *own, *more]


async def streamed(client: httpx2.AsyncClient, url: str, body: Mapping[str, Any]) -> Timed:
    """Asks for a chat completion as a stream that counts its tokens.

    Raises:
        RuntimeError: the answer is an error.
    """
    started, first, tokens, text = time.perf_counter(), 0.0, 0, ""
    async with client.stream("POST", f"{url}/chat/completions", json=body) as answer:
        if answer.status_code != 200:
            raise RuntimeError(f"{answer.status_code}: {(await answer.aread()).decode()}")
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            if "error" in chunk:
                raise RuntimeError(str(chunk["error"]))
            said = "".join(c["delta"].get("content") or "" for c in chunk["choices"])
            if said and not first:
                first = time.perf_counter() - started
            text += said
            tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
    return Timed(first, time.perf_counter() - started, tokens, text)
