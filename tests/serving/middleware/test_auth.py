"""Who is let in, what is too much, and what the log says of it: on a small app of real routes."""

import io
import json
import logging
import re
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from anyio import Event, create_task_group, fail_after, sleep, to_thread
from fastapi import FastAPI, Request, UploadFile
from fastapi.responses import Response, StreamingResponse
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session, sessionmaker

from burnish.serving import log
from burnish.serving.app.app import make_app
from burnish.serving.app.exception_handlers import add_handlers
from burnish.serving.catalog.server import open_server
from burnish.serving.middleware.auth import Authentication, is_loopback, needed
from burnish.serving.middleware.limits import Limits, Shape
from burnish.serving.middleware.metrics import Metrics
from burnish.serving.middleware.observe import RequestLog
from burnish.serving.middleware.request_state import actor_of, release_body, usage_of
from burnish.serving.routes.graders import router
from burnish.serving.state import keys
from burnish.serving.state.installation import Settings
from burnish.serving.state.tables import Table
from tests.serving.api_refused import quotes

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = create_engine(f"sqlite:///{tmp_path / 'state.db'}")
    Table.metadata.create_all(made)
    yield made
    made.dispose()


def small_app(engine: Engine, metrics: Metrics, host: str) -> FastAPI:
    app = FastAPI()
    app.include_router(router, prefix="/v1")
    add_handlers(app)

    @app.get("/health")
    def health() -> str:
        return "ok"

    @app.get("/metrics")
    def measured() -> Any:
        return metrics.response()

    @app.get("/v1/models")
    def models(request: Request) -> dict[str, Any]:
        return {"object": "list", "data": [], "actor": actor_of(request)}

    @app.post("/v1/embeddings")
    def embeddings(body: dict[str, Any], request: Request) -> dict[str, Any]:
        usage_of(request).prompt = int(body.get("tokens", 0))
        return {"read": True}

    @app.post("/v1/files")
    async def files(file: UploadFile) -> int:
        return len(await file.read())

    @app.post("/v1/completions")
    async def completions(request: Request) -> StreamingResponse:
        usage = usage_of(request)

        async def pieces() -> AsyncIterator[bytes]:
            usage.prompt, usage.cached, usage.first = 7, 3, 0.01
            for _ in range(5):
                usage.generated += 1
                yield b"word "

        return StreamingResponse(pieces())

    @app.get("/v1/models/broken")
    def broken() -> None:
        raise RuntimeError("the prompt was: my secret")

    app.add_middleware(Limits, body=2000, form=5000, depth=5)
    app.add_middleware(Authentication, sessions=sessionmaker(engine), host=host)
    app.add_middleware(RequestLog, metrics=metrics)
    return app


class Server:
    """The app, as a client at some address sees it."""

    def __init__(self, engine: Engine, host: str = "0.0.0.0") -> None:
        self.engine, self.metrics = engine, Metrics()
        self.app = small_app(engine, self.metrics, host)

    def key(self, *scopes: str, **limits: int) -> str:
        with Session(self.engine) as session:
            _, secret = keys.make(session, "cli", "test", scopes, **limits)
            session.commit()
        return secret

    async def ask(
        self, method: str, path: str, secret: str = "", base: str = "http://server", **more: Any
    ) -> httpx2.Response:
        transport = httpx2.ASGITransport(app=self.app, raise_app_exceptions=False)
        headers = {"authorization": f"Bearer {secret}"} if secret else {}
        async with httpx2.AsyncClient(transport=transport, base_url=base) as client:
            return await client.request(
                method, path, headers=headers | more.pop("headers", {}), **more
            )


@pytest.mark.parametrize(
    ("method", "path", "access"),
    [
        ("GET", "/health", "open"),
        ("POST", "/v1/chat/completions", "infer"),
        ("GET", "/v1/models/hf:org/name", "known"),
        ("DELETE", "/v1/models/ft:a:b:c:d", "tune"),
        ("GET", "/v1/files/file-1/content", "tune"),
        ("POST", "/v1/uploads/u/parts", "tune"),
        ("POST", "/v1/fine_tuning/jobs/j/cancel", "tune"),
        ("POST", "/v1/fine_tuning/alpha/graders/run", "tune"),
        ("GET", "/v1/fine_tuning/jobs/j/checkpoints", "tune"),
        ("POST", "/v1/fine_tuning/checkpoints/ft:hf:a/b:c::d/permissions", "admin"),
        ("DELETE", "/v1/fine_tuning/checkpoints/ft:a/permissions/p", "admin"),
        ("GET", "/metrics", "admin"),
        ("POST", "/v1/models", None),
        ("GET", "/v1/filesystem", None),
        ("GET", "/v1/files\n", None),
    ],
)
def test_what_a_route_needs(method: str, path: str, access: str | None) -> None:
    assert needed(method, path) == access


def test_every_route_has_a_rule(tmp_path: Path) -> None:
    """A route that nobody thought of would be for admins alone, and its tests would not say so."""
    server = open_server(Settings(tmp_path / "data"))
    routes = [
        (method, re.sub(r"\{[^}]+\}", "x", path))
        for method, path in operations(make_app(server).routes)
    ]
    server.close()
    assert len(routes) > 30
    assert [route for route in routes if needed(*route) is None] == []


def operations(routes: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Method and path of every route, of included routers too."""
    for route in routes:
        if inner := getattr(route, "original_router", None):
            yield from operations(inner.routes, "/v1")
        else:
            yield from ((method, prefix + route.path) for method in route.methods)


def test_addresses_of_this_machine() -> None:
    assert all(map(is_loopback, ["localhost", "127.0.0.1", "127.8.0.1", "::1", "[::1]"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "10.0.0.1", "localhost.evil.org", ""]))


async def test_no_key_is_needed_on_a_loopback_alone(engine: Engine) -> None:
    near, far = Server(engine, "127.0.0.1"), Server(engine)
    local = "http://127.0.0.1:8000"
    answer = await near.ask("GET", "/v1/models", base=local)
    assert (answer.status_code, answer.json()["actor"]) == (200, "local")
    assert (await near.ask("GET", "/v1/models", "any text", base=local)).status_code == 200
    # A web page whose name was pointed at this machine is not this machine.
    assert (await near.ask("GET", "/v1/models", base="http://evil.org:8000")).status_code == 401
    for headers, status in [
        ({"origin": "http://evil.org"}, 403),
        ({"origin": "http://127.0.0.1:3000"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"}, 200),
    ]:
        sent = {"files": {"file": b"rows"}, "headers": headers}
        answer = await near.ask("POST", "/v1/files", base=local, **sent)
        assert answer.status_code == status, headers
    refused = await far.ask("GET", "/v1/models", base=local)
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "no_api_keys")
    assert (await far.ask("GET", "/health")).json() == "ok"
    secret = near.key("infer")  # from now on keys are in use here too
    assert (await near.ask("GET", "/v1/models", base=local)).status_code == 401
    assert (await near.ask("GET", "/v1/models", secret, base=local)).status_code == 200


async def test_revoking_the_last_key_opens_nothing(engine: Engine) -> None:
    server, local = Server(engine, "127.0.0.1"), "http://127.0.0.1:8000"
    secret = server.key("infer")
    with Session(engine) as session:
        keys.revoke(session, "cli", keys.listed(session)[0].id)
        session.commit()
    for sent in ("", secret):
        assert (await server.ask("GET", "/v1/models", sent, base=local)).status_code == 401
    with Session(engine) as session:
        keys.turn_off(session, "cli")
        session.commit()
    assert (await server.ask("GET", "/v1/models", base=local)).status_code == 200
    assert (await server.ask("GET", "/v1/models", base="http://10.0.0.1")).status_code == 401


@pytest.mark.parametrize(
    "header",
    [
        "Forwarded",
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Real-IP",
        "Via",
        "CF-Connecting-IP",
        "True-Client-IP",
        "X-Cluster-Client-IP",
        "Fastly-Client-IP",
        "X-Original-Forwarded-For",
        "X_Forwarded_For",
        "X-Nginx-Proxy",
        "X-ARR-LOG-ID",
        "X-Scheme",
    ],
)
async def test_behind_a_proxy_a_loopback_is_not_trusted(engine: Engine, header: str) -> None:
    server, local = Server(engine, "127.0.0.1"), "http://127.0.0.1:8000"
    sent = {"headers": {header: "127.0.0.1"}, "base": local}
    refused = await server.ask("GET", "/v1/models", **sent)
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "came_through_proxy")
    assert quotes(refused.json(), header.lower())
    assert (await server.ask("GET", "/health", **sent)).status_code == 200
    secret = server.key("infer")  # with a key it does not matter whose machine asks
    assert (await server.ask("GET", "/v1/models", secret, **sent)).status_code == 200


async def test_the_guard_and_health_need_none_of_the_shared_threads(tmp_path: Path) -> None:
    """Forty requests that wait in threads, or whatever else holds them all, keep nobody out."""
    service = open_server(Settings(tmp_path / "data"))
    transport = httpx2.ASGITransport(app=make_app(service))
    shared = to_thread.current_default_thread_limiter()
    before, shared.total_tokens = shared.total_tokens, 0
    try:
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            with fail_after(10):
                assert (await client.get("/health")).status_code == 200
                assert (await client.get("/v1/none", headers={"via": "1"})).status_code == 401
                assert (await client.get("/v1/none")).status_code == 404
    finally:
        shared.total_tokens = before
        service.close()


async def test_scopes_open_their_routes(engine: Engine) -> None:
    server = Server(engine)
    infer, tune, admin = (server.key(scope) for scope in ("infer", "tune", "admin"))
    wanted = {
        ("GET", "/v1/models"): {infer, tune, admin},
        ("POST", "/v1/embeddings"): {infer, admin},
        ("POST", "/v1/fine_tuning/alpha/graders/validate"): {tune, admin},
        ("GET", "/metrics"): {admin},
    }
    for (method, path), allowed in wanted.items():
        for secret in (infer, tune, admin):
            answer = await server.ask(method, path, secret, json={})
            assert (answer.status_code == 403) is (secret not in allowed), path
        assert (await server.ask(method, path)).status_code == 401
        assert (await server.ask(method, path, infer[:-1] + "~")).status_code == 401
    refused = (await server.ask("GET", "/metrics", tune)).json()["error"]
    assert refused["code"] == "missing_scope"
    assert quotes(refused, "admin")
    missing = await server.ask("GET", "/v1/assistants", infer)
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "unknown_url")


@pytest.mark.parametrize(
    ("path", "now"),
    [
        ("fine-tunes", "/v1/fine_tuning/jobs"),
        ("fine_tunes", "/v1/fine_tuning/jobs"),
        ("fine-tunes/ft-1/events", "/v1/fine_tuning/jobs"),
        ("engines", "/v1/models"),
        ("engines/davinci", "/v1/models"),
        ("engines/davinci/completions", "/v1/completions"),
        ("engines/org/ada/embeddings", "/v1/embeddings"),
        ("engines/ada/search", "/v1/embeddings"),
        ("search", "/v1/embeddings"),
        ("edits", "/v1/chat/completions"),
        ("answers", "/v1/chat/completions"),
        ("classifications", "/v1/chat/completions"),
        ("fine-tuned", None),
    ],
)
async def test_what_the_api_has_no_more_names_what_replaced_it(
    engine: Engine, path: str, now: str | None
) -> None:
    server = Server(engine)
    secret = server.key("infer")
    for method in ("GET", "POST", "DELETE"):
        answer = await server.ask(method, f"/v1/{path}", secret)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (404, "unknown_url")
        assert quotes(error, now) if now else error["message"].count("/v1/") == 1


async def test_a_revoked_key_is_out_at_once(engine: Engine) -> None:
    server = Server(engine)
    secret, _ = server.key("infer"), server.key("infer")
    assert (await server.ask("GET", "/v1/models", secret)).status_code == 200
    with Session(engine) as session:
        keys.revoke(session, "cli", keys.listed(session)[0].id)
        session.commit()
    refused = await server.ask("GET", "/v1/models", secret)
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")


async def test_the_official_client_reads_the_limit(engine: Engine) -> None:
    server = Server(engine)
    client = openai.AsyncOpenAI(
        api_key=server.key("infer", requests=1),
        base_url="http://server/v1",
        max_retries=0,
        http_client=httpx2.AsyncClient(transport=httpx2.ASGITransport(app=server.app)),
    )
    async with client:
        first = await client.models.with_raw_response.list()
        assert first.headers["x-ratelimit-remaining-requests"] == "0"
        assert first.request_id is not None
        with pytest.raises(openai.RateLimitError) as caught:
            await client.models.list()
    assert caught.value.code == "rate_limit_exceeded"
    assert 30 <= int(caught.value.response.headers["retry-after"]) <= 60


async def test_the_official_client_waits_and_tries_again(engine: Engine) -> None:
    server = Server(engine)
    secret = server.key("infer", tokens=60_000)
    started, overdrawn = time.monotonic(), {"tokens": 62_000}  # 2 s of 60,000 a minute
    assert (await server.ask("POST", "/v1/embeddings", secret, json=overdrawn)).status_code == 200
    http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=server.app))
    async with openai.AsyncOpenAI(
        api_key=secret, base_url="http://server/v1", http_client=http
    ) as client:
        raw = await client.models.with_raw_response.list()
        assert raw.retries_taken == 1
        assert 2 <= time.monotonic() - started < 30


def nested(depth: int) -> bytes:
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


async def test_bodies_that_are_refused(engine: Engine) -> None:
    server = Server(engine)
    secret = server.key("admin")
    sent = {"headers": {"content-type": "application/json"}}

    async def post(content: Any, path: str = "/v1/embeddings") -> tuple[int, str | None]:
        answer = await server.ask("POST", path, secret, content=content, **sent)
        return answer.status_code, answer.json().get("error", {}).get("code")

    async def dripping(size: int) -> AsyncIterator[bytes]:
        yield b'{"a":"'
        for _ in range(size // 100):
            yield b"x" * 100
        yield b'"}'

    assert await post(nested(5)) == (200, None)
    assert await post(nested(6)) == (400, "json_too_deep")
    assert await post(b'{"a":"' + b"[" * 50 + b'"}') == (200, None)
    assert await post(b"x" * 2001) == (413, "request_too_large")
    assert await post(dripping(1900)) == (200, None)
    assert await post(dripping(2500)) == (413, "request_too_large")  # no length was told


@pytest.mark.parametrize("item", [b"1", b"{}", b'"a"', b'{"a":1}', b"[]", b"null"])
async def test_a_body_of_too_many_values_is_refused(engine: Engine, item: bytes) -> None:
    """Each that is wrong would become an error of its own before the first is told."""
    server = Server(engine)
    for path, field in [("chat/completions", "messages"), ("fine_tuning/jobs", "metadata")]:
        body = b'{"%b":[%b]}' % (field.encode(), b",".join([item] * 130_000))
        answer = await ask_limited(server, f"/v1/{path}", body)
        assert answer == (400, "json_too_large")
    assert await ask_limited(server, "/v1/completions", b"[" + b"5," * 200_000 + b"5]") == (200, "")
    # What strings hold is no value.
    assert await ask_limited(server, "/v1/models", b'["' + b"[,:{" * 50_000 + b'"]') == (200, "")


async def ask_limited(server: Server, path: str, body: bytes, **limits: int) -> tuple[int, str]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await Request(scope, receive).body()
        await Response()(scope, receive, send)

    transport = httpx2.ASGITransport(app=Limits(app, **limits))
    async with httpx2.AsyncClient(transport=transport, base_url="http://server") as client:
        answer = await client.post(path, content=body)
    return answer.status_code, answer.json()["error"]["code"] if answer.content else ""


async def test_so_many_large_bodies_are_held_at_once() -> None:
    go_on, sizes = Event(), (60_000, 60_000, 10_000)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await Request(scope, receive).body()
        if scope["path"] == "/prepared":
            release_body(scope)
        await go_on.wait()
        await Response()(scope, receive, send)

    limits = Limits(app, together=100_000)
    transport, answers = httpx2.ASGITransport(app=limits), []

    async def post(path: str, size: int) -> None:
        answers.append(await client.post(path, content=b"x" * size))

    async with httpx2.AsyncClient(transport=transport, base_url="http://server") as client:
        async with create_task_group() as group:
            for size in sizes:
                group.start_soon(post, "/held", size)
            while not answers:
                await sleep(0.001)
            refused = answers[0]
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert refused.json()["error"]["code"] == "overloaded"
            assert limits.held == 60_000  # the short one does not count
            go_on.set()
        assert sorted(answer.status_code for answer in answers) == [200, 200, 503]
        assert limits.held == 0
        go_on = Event()
        async with create_task_group() as group:  # what is prepared makes room
            for _ in range(3):
                group.start_soon(post, "/prepared", 60_000)
                await sleep(0.01)
            assert limits.held == 0
            go_on.set()
    assert [answer.status_code for answer in answers[3:]] == [200] * 3


async def test_files_may_be_larger_than_other_bodies(engine: Engine) -> None:
    server = Server(engine)
    secret = server.key("tune")
    small = await server.ask("POST", "/v1/files", secret, files={"file": b"[" * 4000})
    assert (small.status_code, small.json()) == (200, 4000)
    large = await server.ask("POST", "/v1/files", secret, files={"file": b"x" * 5000})
    assert large.status_code == 413
    for path in ("/v1/embeddings", "/v1/files/file-1", "/v1/uploads/u/complete"):
        other = await server.ask("POST", path, server.key("admin"), files={"file": b"x" * 4000})
        assert other.status_code == 413, path
    part = await server.ask("POST", "/v1/uploads/u/parts", secret, files={"file": b"x" * 4000})
    assert part.status_code == 404  # of this small app


@pytest.mark.parametrize(
    ("written", "depth"),
    [
        (b"3", 0),
        (b"[]", 1),
        (b'{"a":[1,{}]}', 3),
        (b'["[[[["]', 1),
        (b'["\\"[[[["]', 1),
        (b'["\\\\",[[]]]', 3),
        (b'[["a\\\\\\"]"],[]]', 2),
    ],
)
def test_depth_however_it_is_cut(written: bytes, depth: int) -> None:
    for size in (1, 2, 3, len(written)):
        counted = Shape()
        for start in range(0, len(written), size):
            counted.feed(written[start : start + size])
        assert counted.deepest == depth


async def test_metrics_and_log(engine: Engine) -> None:
    server, stream = Server(engine), io.StringIO()
    before = log.LOGGER.handlers[:], log.LOGGER.level, log.LOGGER.propagate
    log.write_to(stream)
    try:
        secret = server.key("admin")
        server.metrics.watch_queue(lambda: 4)
        server.metrics.watch_jobs(lambda: {"running": 2, "failed": 1})
        await server.ask("POST", "/v1/completions", secret, content=b"a secret prompt")
        broken = await server.ask("GET", "/v1/models/broken", secret)
        await server.ask("GET", "/v1/none/of/this", secret)
        await server.ask("POST", "/v1/embeddings")
        told = (await server.ask("GET", "/metrics", secret)).text
    finally:
        log.LOGGER.handlers[:], log.LOGGER.level, log.LOGGER.propagate = before
    for line in [
        'burnish_requests_total{route="/v1/completions",status="200"} 1.0',
        'burnish_requests_total{route="/v1/models/broken",status="500"} 1.0',
        'burnish_requests_total{route="none",status="404"} 1.0',
        'burnish_requests_total{route="none",status="401"} 1.0',
        'burnish_first_token_seconds_count{route="/v1/completions"} 1.0',
        'burnish_tokens_total{kind="prompt"} 7.0',
        'burnish_tokens_total{kind="cached"} 3.0',
        'burnish_tokens_total{kind="generated"} 5.0',
        "burnish_queue_length 4.0",
        'burnish_jobs{status="failed"} 1.0',
        'burnish_jobs{status="running"} 2.0',
    ]:
        assert line in told
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    done = [line for line in lines if line["event"] == "request"]
    assert [line["status"] for line in done] == [200, 500, 404, 401, 200]
    assert done[0]["generated_tokens"] == 5
    assert done[0]["key_id"].startswith("key_")
    assert done[3]["key_id"] is None
    (failed,) = (line for line in lines if line["event"] == "error")
    assert failed["error"] == "RuntimeError"
    assert failed["request_id"] == done[1]["request_id"] == broken.headers["x-request-id"]
    assert broken.json()["error"]["type"] == "server_error"
    assert failed["where"][-1].endswith("broken")
    assert "secret" not in stream.getvalue()


def test_what_a_library_says_is_not_quoted() -> None:
    try:
        raise ValueError("my secret prompt")
    except ValueError:
        found = sys.exc_info()
    said = ("uvicorn.error", logging.ERROR, "here.py", 1, "my secret %s", ("prompt",), found)
    line = json.loads(log.JsonLines().format(logging.LogRecord(*said)))
    assert (line["event"], line["error"]) == ("uvicorn.error", "ValueError")
    assert "secret" not in json.dumps(line)


def test_the_log_drops_what_it_does_not_know() -> None:
    stream = io.StringIO()
    before = log.LOGGER.handlers[:], log.LOGGER.level, log.LOGGER.propagate
    log.write_to(stream)
    try:
        log.note("job", level=logging.WARNING, job_id="j", prompt="my secret")
        log.note("quiet", level=logging.DEBUG)
    finally:
        log.LOGGER.handlers[:], log.LOGGER.level, log.LOGGER.propagate = before
    line = json.loads(stream.getvalue())
    assert line.pop("time") > 1e9
    assert line == {"level": "warning", "event": "job", "job_id": "j"}
