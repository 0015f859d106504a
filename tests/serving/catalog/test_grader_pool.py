"""Graders are bounded, and keep nobody waiting but each other."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from burnish.evaluation.graders import parse_grader
from burnish.serving.app.exception_handlers import add_handlers
from burnish.serving.catalog.grader_pool import Grading
from burnish.serving.routes import files, jobs
from burnish.serving.routes.graders import router
from burnish.serving.state.installation import GradingBounds, Settings, open_service
from burnish.serving.state.keys import Key
from tests.serving.api_refused import quotes

EQ: Any = {"type": "string_check", "operation": "eq", "input": "a", "reference": "a"}
SCORE: Any = {"type": "score_model", "model": "m", "input": [{"role": "user", "content": "?"}]}
LABEL: Any = SCORE | {"type": "label_model", "labels": ["1"], "passing_labels": ["1"]}
COSINE: Any = {
    "type": "text_similarity", "evaluation_metric": "cosine", "input": "a", "reference": "b",
}  # fmt: skip


def sleeping(seconds: float) -> dict[str, Any]:
    source = f"import time\ndef grade(sample, item):\n    time.sleep({seconds})\n    return 1.0\n"
    return {"type": "python", "name": "slow", "source": source}


def several(*graders: Any) -> dict[str, Any]:
    named = {f"g{place}": grader for place, grader in enumerate(graders)}
    return {"type": "multi", "graders": named, "calculate_output": " + ".join(named)}


class _Known:
    """Puts a key where the guard would."""

    def __init__(self, app: Any, key: Callable[[], Key | None]) -> None:
        self.app, self.key = app, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["burnish.key"] = self.key()
        await self.app(scope, receive, send)


def application(grading: Grading, key: Key | None = None, asked: Any = None) -> FastAPI:
    app = FastAPI()
    app.include_router(router, prefix="/v1")
    add_handlers(app)
    app.state.grading = grading
    app.state.service = SimpleNamespace(
        engines=SimpleNamespace(ask=asked, named=lambda name, project: name),
        embedder=lambda texts: [[1.0]] * len(texts),
    )
    app.add_middleware(_Known, key=lambda: key)

    @app.get("/plain")
    def plain() -> str:
        return "answered in a thread, as files and jobs are"

    return app


def client(app: FastAPI) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(app=app)
    return httpx2.AsyncClient(transport=transport, base_url="http://localhost", timeout=60)


def run(
    http: httpx2.AsyncClient, grader: Mapping[str, Any], verb: str = "run"
) -> Awaitable[httpx2.Response]:
    body = {"grader": grader} | ({"model_sample": "a"} if verb == "run" else {})
    return http.post(f"/v1/fine_tuning/alpha/graders/{verb}", json=body)


pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_many_sleeping_graders_delay_nobody_else() -> None:
    app = application(Grading(GradingBounds(processes=2, waiting=4)))
    async with client(app) as http:
        graders = [asyncio.ensure_future(run(http, sleeping(1.0))) for _ in range(45)]
        await asyncio.sleep(0.3)
        started = time.monotonic()
        assert (await http.get("/plain")).status_code == 200
        assert (await run(http, EQ)).json()["reward"] == 1.0  # computes nothing, so does not wait
        assert time.monotonic() - started < 1.0
        replies = await asyncio.gather(*graders)
    done = [reply for reply in replies if reply.status_code == 200]
    refused = [reply for reply in replies if reply.status_code == 429]
    assert (len(done), len(refused)) == (6, 39)
    assert all(reply.json()["reward"] == 1.0 for reply in done)
    assert refused[0].json()["error"]["code"] == "graders_busy"
    assert int(refused[0].headers["retry-after"]) > 0


async def test_no_more_run_at_once_than_are_allowed() -> None:
    now, most, lock = 0, 0, threading.Lock()

    def work(_: Any) -> int:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.05)
        with lock:
            now -= 1
        return most

    grading = Grading(GradingBounds(processes=2, waiting=10))
    waiting = SimpleNamespace(scope={}, receive=asyncio.Event().wait)
    slow = parse_grader(COSINE | {"evaluation_metric": "rouge_l"})
    await asyncio.gather(*(grading.run(waiting, slow, work) for _ in range(8)))  # type: ignore[arg-type]
    assert most == 2


async def test_a_key_has_so_many_seconds_per_minute() -> None:
    clock = iter_clock([0.0] * 3 + [40.0] * 4)
    grading = Grading(GradingBounds(seconds=30), clock=clock)
    key = Key("key_1", "tuner", frozenset({"tune"}))
    async with client(application(grading, key)) as http:
        assert (await run(http, sleeping(0))).status_code == 200
        refused = await run(http, sleeping(0))
        assert refused.status_code == 429
        assert quotes(refused.json(), 30)
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert 20 < int(refused.headers["retry-after"]) <= 23
        assert (await run(http, EQ)).status_code == 200


def iter_clock(times: list[float]) -> Callable[[], float]:
    left: Iterator[float] = iter(times)
    last = times[-1]
    return lambda: next(left, last)


async def test_one_key_fills_no_more_than_half_of_the_queue() -> None:
    grading = Grading(GradingBounds(processes=1, waiting=4))
    mine = application(grading, Key("key_1", "mine", frozenset({"tune"})))
    other = application(grading, Key("key_2", "other", frozenset({"tune"})))
    async with client(mine) as http, client(other) as another:
        graders = [asyncio.ensure_future(run(http, sleeping(0.5))) for _ in range(8)]
        await asyncio.sleep(0.2)
        assert (await run(another, sleeping(0))).status_code == 200
        codes = [reply.status_code for reply in await asyncio.gather(*graders)]
    assert sorted(codes) == [200] * 3 + [429] * 5


async def test_all_graders_of_a_request_share_its_time_and_each_its_memory() -> None:
    grading = Grading(GradingBounds(processes=2, memory=512 << 20, request=1.0))
    async with client(application(grading)) as http:
        reply = (await run(http, several(*[sleeping(0.4)] * 5))).json()
        assert reply["metadata"]["errors"]["python_grader_server_error_type"] == "timeout"
        assert reply["metadata"]["execution_time"] < 2
        source = "def grade(sample, item):\n    return len(bytearray(300 << 20))\n"
        large = (await run(http, {"type": "python", "source": source})).json()
    assert large["metadata"]["errors"]["python_grader_server_error_type"] == "memory"


@pytest.mark.parametrize("kind", ["program", "model"])
async def test_a_client_that_hangs_up_ends_its_grader(kind: str) -> None:
    stopped = threading.Event()

    def asked(model: str, messages: Any, request: Any, project: Any) -> Any:
        if request.stop.wait(20):
            stopped.set()
        raise RuntimeError("nobody waits")

    app = application(Grading(), asked=asked)
    grader = SCORE if kind == "model" else sleeping(25)
    body = json.dumps({"grader": grader, "model_sample": "a"}).encode()
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    started = time.monotonic()

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await asyncio.sleep(max(0.0, started + 0.5 - time.monotonic()))
        return {"type": "http.disconnect"}

    async def send(_: Message) -> None:
        pass

    path = "/v1/fine_tuning/alpha/graders/run"
    scope: Scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "root_path": "",
        "query_string": b"", "headers": [(b"content-type", b"application/json")],
        "http_version": "1.1", "scheme": "http", "client": None, "server": None,
    }  # fmt: skip
    await app(scope, receive, send)
    assert time.monotonic() - started < 15
    assert stopped.is_set() == (kind == "model")


ROW = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


@contextlib.asynccontextmanager
async def tuner(
    folder: Path, grading: Grading, key: Key | None
) -> AsyncIterator[Callable[[Any], Awaitable[httpx2.Response]]]:
    """Creates reinforcement jobs with a key."""
    service = open_service(Settings(folder, models={"tiny": str(folder)}))
    app = FastAPI()
    for part in (files.router, jobs.router):
        app.include_router(part, prefix="/v1")
    add_handlers(app)
    app.state.service, app.state.grading = service, grading
    app.add_middleware(_Known, key=lambda: key)
    async with client(app) as http:
        rows = "\n".join([json.dumps(ROW)] * 10).encode()
        sent = {"file": ("rows.jsonl", rows)}
        file = (await http.post("/v1/files", files=sent, data={"purpose": "fine-tune"})).json()

        def create(grader: Any) -> Awaitable[httpx2.Response]:
            method = {"type": "reinforcement", "reinforcement": {"grader": grader}}
            body = {"model": "tiny", "training_file": file["id"], "method": method}
            return http.post("/v1/fine_tuning/jobs", json=body)

        yield create
    service.close()


@pytest.mark.parametrize(
    "grader",
    [SCORE | {"model": "tiny"}, several(EQ, SCORE | {"model": "tiny"})],
    ids=["one", "two"],
)
async def test_no_job_asks_a_model_for_a_key_that_may_only_tune(
    grader: Any, tmp_path: Path
) -> None:
    for scopes, code in ((["tune"], 403), (["tune", "infer"], 200)):
        key = Key("key_1", "n", frozenset(scopes))
        async with tuner(tmp_path, Grading(), key) as create:
            reply = await create(grader)
            assert reply.status_code == code, reply.text
            assert (await create(EQ)).status_code == 200


async def test_graders_of_new_jobs_are_bounded_too(tmp_path: Path) -> None:
    source = "import time\ntime.sleep(1)\ndef grade(sample, item):\n    return 1.0\n"
    grading = Grading(GradingBounds(processes=1, waiting=1))
    async with tuner(tmp_path, grading, None) as create:
        replies = [asyncio.ensure_future(create({"type": "python", "source": source}))]
        replies += [asyncio.ensure_future(create({"type": "python", "source": source}))]
        await asyncio.sleep(0.3)
        assert (await create({"type": "python", "source": source})).status_code == 429
        assert (await create(EQ)).status_code == 200
        assert [reply.status_code for reply in await asyncio.gather(*replies)] == [200, 200]


@pytest.mark.parametrize(
    "grader", [SCORE, LABEL, COSINE, several(EQ, SCORE)], ids=lambda grader: grader["type"]
)
async def test_a_key_that_may_only_tune_makes_no_model_answer(grader: Any) -> None:
    def asked(*_: Any) -> Any:
        return '{"result": "1"}', SimpleNamespace(prompt=1, cached=0, drawn=1)

    tune, both, admin = (
        Key("key_1", "n", frozenset(scopes)) for scopes in (["tune"], ["tune", "infer"], ["admin"])
    )
    async with client(application(Grading(), tune, asked)) as http:
        refused = await run(http, grader)
        assert refused.status_code == 403
        assert refused.json()["error"]["code"] == "missing_scope"
        assert quotes(refused.json(), "infer")
        assert (await run(http, EQ)).status_code == 200
        assert (await run(http, grader, "validate")).status_code == 200  # asks nobody
    for key in (both, admin, None):
        async with client(application(Grading(), key, asked)) as http:
            assert (await run(http, grader)).status_code == 200
