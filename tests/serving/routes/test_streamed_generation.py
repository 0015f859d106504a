"""Streams through the official client: the status tells what keeps one from its beginning, and
tokens count wherever it ends."""

import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest

from burnish.inference.scheduler import EngineLimits
from burnish.inference.types import GenerationRequest, SamplingSettings
from burnish.serving.app.app import make_app
from burnish.serving.catalog.registry import open_in_process
from burnish.serving.catalog.server import Server, open_server
from burnish.serving.state import keys
from burnish.serving.state.installation import Settings
from burnish.serving.state.tables import ModelRow
from tests.serving.conftest import running

HELLO: Any = [{"role": "user", "content": "where is my parcel"}]
BROKEN = "ft:tiny:local::broken"
# A tiny model's tokens that end an answer, never drawn.
ENDLESS = {"0": -100, "2": -100}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Server:
    """One row and one that waits."""
    settings = Settings(tmp_path_factory.mktemp("streams"), models={"tiny": str(tiny_folder)})
    found = open_server(
        settings, opened=open_in_process("cpu", EngineLimits(max_batch=1, max_waiting=1))
    )
    with found.database.writing() as session:
        session.add(ModelRow(BROKEN, "tiny", "ftjob-a", "nowhere", 1, decision="release"))
    return found


@pytest.fixture(scope="module")
def address(server: Server) -> Iterator[str]:
    with running(make_app(server)) as found:
        yield found


@pytest.fixture
def client(server: Server, address: str) -> Iterator[Callable[..., openai.OpenAI]]:
    """Clients by the tokens that their keys may use a minute."""
    made: list[tuple[str, openai.OpenAI]] = []

    def client_of(tokens: int | None = None) -> openai.OpenAI:
        with server.database.writing() as session:
            key, secret = keys.make(session, "cli", "test", ["admin"], tokens=tokens)
        found = openai.OpenAI(api_key=secret, base_url=address, max_retries=0)
        made.append((key.id, found))
        return found

    yield client_of
    for name, one in made:
        one.close()
        with server.database.writing() as session:
            keys.revoke(session, "cli", name)


def asked(client: openai.OpenAI, **given: Any) -> Any:
    return client.chat.completions.create(**{"model": "tiny", "messages": HELLO} | given)


@pytest.mark.parametrize("legacy", [False, True], ids=["chat", "legacy"])
def test_a_full_queue_is_told_by_the_status(server: Server, client: Any, legacy: bool) -> None:
    engine, own = server.engines.target("tiny").engine, client()
    make: Any = own.completions.create if legacy else own.chat.completions.create
    said: Any = {"prompt": "tent"} if legacy else {"messages": HELLO}
    ask = partial(make, model="tiny", stream=True, max_tokens=2, **said)
    never = SamplingSettings(400, bias={int(token): -100.0 for token in ENDLESS})
    with engine.submit(GenerationRequest((5,), never)) as runs:
        next(runs)
        with (
            engine.submit(GenerationRequest((5,), never)),
            pytest.raises(openai.InternalServerError) as error,
        ):
            ask()
    assert (error.value.status_code, error.value.code) == (503, "overloaded")
    assert error.value.response.headers["retry-after"] == "1"
    wait_for(lambda: not engine.counters().running)
    assert list(ask())


@pytest.mark.parametrize("stream", [False, True])
def test_an_adapter_that_cannot_be_read_is_told_by_the_status(client: Any, stream: bool) -> None:
    with pytest.raises(openai.APIStatusError) as error:
        asked(client(), model=BROKEN, stream=stream)
    assert error.value.status_code == 400
    with pytest.raises(openai.APIStatusError):
        client().completions.create(model=BROKEN, prompt="tent", stream=stream)


def to_the_end(client: openai.OpenAI) -> None:
    assert len(list(asked(client, stream=True, max_tokens=40, logit_bias=ENDLESS))) > 10


def hung_up(client: openai.OpenAI) -> None:
    with asked(client, stream=True, max_tokens=400, logit_bias=ENDLESS) as stream:
        for _ in range(30):
            next(stream)


def never_shown(client: openai.OpenAI, tokenizer: Any) -> None:
    """Halves of characters, which wait for their others: no piece is ever there."""
    half = {str(tokenizer.convert_tokens_to_ids("Ģ")): 100}
    with pytest.raises(openai.APITimeoutError):
        asked(client, stream=True, max_tokens=400, logit_bias=half, timeout=0.3)


@pytest.mark.parametrize("way", [to_the_end, hung_up, never_shown])
def test_tokens_of_a_stream_count(
    server: Server, client: Any, tiny_tokenizer: Any, way: Callable[..., None]
) -> None:
    """Limits and metrics see what was drawn, not more than that."""
    plain = client()
    prompt = asked(plain, max_tokens=1).usage.prompt_tokens
    limited = client(prompt + 5)  # of which the prompt alone leaves some
    before, drawn = generated(plain), server.engines.target("tiny").engine.counters().generated
    if way is never_shown:
        way = partial(way, tokenizer=tiny_tokenizer)
    way(limited)
    wait_for(lambda: is_refused(limited))
    known = server.engines.target("tiny").engine.counters().generated - drawn
    assert 20 < generated(plain) - before <= known < 400


def is_refused(client: openai.OpenAI) -> bool:
    try:
        client.models.list()
    except openai.RateLimitError as error:
        return error.type == "tokens"
    return False


def generated(client: openai.OpenAI) -> float:
    """As `/metrics` tells it."""
    address = str(client.base_url).replace("/v1/", "/metrics")
    told = client.get(address, cast_to=str)
    found = re.search(r'burnish_tokens_total\{kind="generated"\} (\S+)', told)
    return float(found[1]) if found else 0.0


def wait_for(true: Callable[[], bool], seconds: float = 30) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, "it never came"
        time.sleep(0.02)
