"""Ten thousand requests to one server: every twentieth malformed, every twentieth hung up on.

    python bench/serve_load.py [--requests 10000] [--clients 32]

A real `burnish serve` answers with a tiny model, so that the server and not the model is under
load. Of each status is counted how often it came; a status that is not the right one for its
request is an error and is named. The server's memory (resident set) is read as requests end: after
a fifth of them it must not grow by more than 5%. At the end the first question is asked again and
must have its first answer.
"""

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil
from interrupt import tiny_model
from serve_programs import Served, burnish, free_port, serving

MODEL = "tiny"
FLAT = 0.05  # by which memory may grow
SETTLED = 0.2  # the share of requests after which it is held against that
_HELLO = [{"role": "user", "content": "where is my parcel"}]
_DEEP = "[" * 100 + "]" * 100

# What is wrong, how it is sent, and the status that says so.
MALFORMED: dict[str, tuple[str, str, Any, int]] = {
    "no JSON": ("POST", "/chat/completions", b'{"model": "tiny", "messages": [', 400),
    "no messages": ("POST", "/chat/completions", {"model": MODEL}, 400),
    "messages empty": ("POST", "/chat/completions", {"model": MODEL, "messages": []}, 400),
    "messages a word": ("POST", "/chat/completions", {"model": MODEL, "messages": "hi"}, 400),
    "role unknown": (
        "POST",
        "/chat/completions",
        {"model": MODEL, "messages": [{"role": "king", "content": "hi"}]},
        400,
    ),
    "field unknown": (
        "POST",
        "/chat/completions",
        {"model": MODEL, "messages": _HELLO, "temprature": 1},
        400,
    ),
    "temperature 9": (
        "POST",
        "/chat/completions",
        {"model": MODEL, "messages": _HELLO, "temperature": 9},
        400,
    ),
    "prompt too long": (
        "POST",
        "/chat/completions",
        {"model": MODEL, "messages": [{"role": "user", "content": "tent " * 2000}]},
        400,
    ),
    "too deep": ("POST", "/chat/completions", _DEEP.encode(), 400),
    "model unknown": ("POST", "/chat/completions", {"model": "large", "messages": _HELLO}, 404),
    "route unknown": ("POST", "/chat/replies", {"model": MODEL}, 404),
    "method wrong": ("DELETE", "/chat/completions", None, 405),
    "file unknown": ("GET", "/files/file-none", None, 404),
    "job without a file": (
        "POST",
        "/fine_tuning/jobs",
        {"model": MODEL, "training_file": "file-none"},
        400,
    ),
}


@dataclass(slots=True)
class Told:
    """What came: statuses by kind of request, those that are wrong, and memory as it went."""

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    memory: list[tuple[int, int]] = field(default_factory=list)  # requests done, bytes
    done: int = 0

    def add(self, kind: str, status: int, right: int, name: str, said: str = "") -> None:
        self.statuses[kind, status] += 1
        self.done += 1
        if status != right:
            self.wrong.append(f"{name}: {status} instead of {right} {said[:200]}")

    def growth(self, requests: int) -> float:
        """Of memory, from the first reading after it has settled to the highest one."""
        after = [size for done, size in self.memory if done >= SETTLED * requests]
        return max(after) / after[0] - 1


class Clients:
    """Asks of one server; `told` grows as the answers come."""

    def __init__(self, server: Served, client: httpx2.AsyncClient, seed: int) -> None:
        self.server, self.client = server, client
        self.told, self.chance = Told(), random.Random(seed)
        self.process = psutil.Process(server.process.pid)

    async def ask(self, number: int) -> None:
        kinds = [self.whole, self.streamed, self.malformed, self.hung_up]
        kind: Callable[[int], Awaitable[None]] = self.chance.choices(kinds, [60, 30, 5, 5])[0]
        try:
            await kind(number)
        except httpx2.HTTPError as error:
            self.told.add("no answer", 0, 200, type(error).__name__, str(error))

    async def whole(self, number: int) -> None:
        answer = await self._send("POST", "/chat/completions", self._body(number))
        self.told.add("whole", answer.status_code, 200, "whole", answer.text)

    async def streamed(self, number: int) -> None:
        body = self._body(number) | {"stream": True}
        async with self._stream(body) as answer:
            text = (await answer.aread()).decode()
        whole = text.rstrip().endswith("data: [DONE]") and '"error"' not in text
        status = answer.status_code if whole else 0
        self.told.add("streamed", status, 200, "streamed", text[-200:])

    async def malformed(self, _: int) -> None:
        name = self.chance.choice(list(MALFORMED))
        method, path, body, right = MALFORMED[name]
        answer = await self._send(method, path, body)
        shaped = "error" in answer.json() and "message" in answer.json()["error"]
        status = answer.status_code if shaped else 0
        self.told.add("malformed", status, right, name, answer.text)

    async def hung_up(self, number: int) -> None:
        """Leaves after some lines of an answer that is long."""
        body = self._body(number) | {"stream": True, "max_tokens": 300}
        left = self.chance.randint(1, 8)
        async with self._stream(body) as answer:
            async for _ in answer.aiter_lines():
                left -= 1
                if left == 0:
                    break
        self.told.add("hung up", answer.status_code, 200, "hung up")

    def _body(self, number: int) -> dict[str, Any]:
        words = " ".join(self.chance.choices(["tent", "parcel", "red", "green"], k=8))
        said = [{"role": "user", "content": f"where is {words} {number}"}]
        tokens = self.chance.randint(1, 24)
        return {"model": MODEL, "messages": said, "max_tokens": tokens, "temperature": 0.7}

    async def _send(self, method: str, path: str, body: Any) -> httpx2.Response:
        given = {"content": body} if isinstance(body, bytes) else {"json": body} if body else {}
        return await self.client.request(method, self.server.url + path, **given)

    def _stream(self, body: dict[str, Any]) -> Any:
        return self.client.stream("POST", f"{self.server.url}/chat/completions", json=body)


async def load(server: Served, given: argparse.Namespace) -> tuple[Told, float, bool]:
    """All requests; what came, in how many seconds, and whether the first answer came again."""
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(timeout=300, limits=limits) as client:
        first = await _hello(client, server)
        clients, numbers = Clients(server, client, given.seed), iter(range(given.requests))
        every = max(1, given.requests // 100)

        async def one() -> None:
            for number in numbers:
                await clients.ask(number)
                if number % every == 0:
                    size = clients.process.memory_info().rss
                    clients.told.memory.append((clients.told.done, size))

        started = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(given.clients)))
        seconds = time.perf_counter() - started
        return clients.told, seconds, await _hello(client, server) == first


async def _hello(client: httpx2.AsyncClient, server: Served) -> str:
    body = {"model": MODEL, "messages": _HELLO, "max_tokens": 16, "temperature": 0}
    answer = await client.post(f"{server.url}/chat/completions", json=body)
    return str(answer.raise_for_status().json()["choices"][0]["message"]["content"])


def report(told: Told, seconds: float, again: bool, requests: int) -> None:
    print("| request | status | count |\n|---|---:|---:|")
    for (kind, status), count in sorted(told.statuses.items()):
        print(f"| {kind} | {status} | {count} |")
    growth = told.growth(requests)
    judged = "met" if growth <= FLAT else "missed"
    sizes = [size / 2**20 for _, size in told.memory]
    print(f"\nrequests a second: {requests / seconds:.1f}")
    print(f"answers with another status than the right one: {len(told.wrong)}")
    for line, count in Counter(told.wrong).most_common(10):
        print(f"  {count} x {line}")
    print(
        f"memory, MiB: {sizes[0]:.0f} at first, {max(sizes):.0f} at most, {sizes[-1]:.0f} at last"
    )
    print(f"grew by {100 * growth:+.1f}% after {SETTLED:.0%} of the requests (aim 5%: {judged})")
    print(f"the first answer came again at the end: {'yes' if again else 'no'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of the server's model")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="burnish-load-") as spare:
        folder, port = Path(spare), free_port()
        model = f"{MODEL}={tiny_model(folder / 'model')}"
        command = burnish(folder / "data", port, "--model", model)
        with serving(command, port, folder / "log", given.threads) as server:
            told, seconds, again = asyncio.run(load(server, given))
    report(told, seconds, again, given.requests)
    if given.json:
        statuses = [[*key, count] for key, count in sorted(told.statuses.items())]
        found = asdict(told) | {"statuses": statuses, "seconds": seconds, "again": again}
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
