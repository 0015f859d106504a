"""The vLLM backend against a server that speaks vLLM's routes over our own engine.

It is no vLLM: it holds what we send and read to what vLLM 0.32 was seen to take and to answer, and
to the engine's own answers.
"""

import asyncio
import json
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from llguidance.hf import from_tokenizer

from burnish.errors import ModelError
from burnish.inference.engine import Backend, Engine
from burnish.inference.grammar import ToolCallGrammar, call_grammar, schema_grammar
from burnish.inference.tool_calls import parse_tool_calls
from burnish.inference.types import GenerationRequest, Piece, SampledToken, SamplingSettings
from burnish.inference.vllm import VllmBackend
from burnish.models.language_model import LanguageModel
from burnish.serving.app.app import make_app
from burnish.serving.catalog.registry import open_on_vllm
from burnish.serving.catalog.server import base_opener, open_server
from burnish.serving.state.installation import Settings
from tests.refused import refused
from tests.serving.api_refused import api_refused
from tests.serving.conftest import running

# What vLLM's completions know and we send.
KNOWN = {
    "model", "prompt", "max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty",
    "frequency_penalty", "presence_penalty", "stop", "seed", "logit_bias", "stream",
    "stream_options", "logprobs", "return_tokens_as_token_ids", "echo", "return_token_ids",
    "response_format", "structured_outputs", "cache_salt",
}  # fmt: skip
SCHEMA = {
    "type": "object",
    "properties": {"a": {"enum": ["x", "y"]}},
    "required": ["a"],
    "additionalProperties": False,
}


class StandIn:
    """vLLM's routes over an engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.loaded, self.given_up = engine, dict[str, str](), threading.Event()
        self.end: str | None = None  # in place of the true one
        self.app = FastAPI()
        self.app.get("/v1/models")(self.models)
        self.app.post("/v1/load_lora_adapter", response_model=None)(self.load)
        self.app.post("/v1/completions", response_model=None)(self.complete)

    def models(self) -> dict[str, Any]:
        cards = [{"id": "adapter", "parent": "base"}, {"id": "base", "parent": None}]
        return {"data": [card | {"max_model_len": self.engine.context} for card in cards]}

    async def load(self, request: Request) -> Response:
        given = await request.json()
        if given["lora_name"] in self.loaded:
            return self.error(400, "The lora adapter has already been loaded.")
        folder = Path(given["lora_path"])
        if not folder.is_absolute() or not folder.is_dir():
            return self.error(404, f"No adapter found for {folder}")
        self.loaded[given["lora_name"]] = given["lora_path"]
        return Response("Success")

    async def complete(self, request: Request) -> Response:
        body = await request.json()
        assert body.keys() <= KNOWN
        if body["model"] not in ("base", *self.loaded):
            return self.error(404, "The model does not exist.")
        if not 0 < body["top_p"] <= 1:
            return self.error(400, "top_p must be in (0, 1]")
        if body["seed"] is not None and not -1 < body["seed"] < 1 << 63:
            return self.error(400, "Input should be less than or equal to 9223372036854775807")
        return StreamingResponse(self.stream(body), media_type="text/event-stream")

    def error(self, status: int, message: str) -> Response:
        said = {"message": message, "type": "BadRequestError", "param": None, "code": status}
        return JSONResponse({"error": said}, status)

    async def stream(self, body: dict[str, Any]) -> AsyncIterator[str]:
        with self.engine.submit(self.request(body)) as answer:
            try:
                async for piece in answer:
                    if piece.end and piece.used:
                        usage = {
                            "prompt_tokens": piece.used.prompt,
                            "completion_tokens": max(1, piece.used.drawn + self.held(body)),
                            "prompt_tokens_details": {"cached_tokens": piece.used.cached},
                        }
                    yield self.event({"choices": [self.choice(piece, body)]})
            except asyncio.CancelledError:
                self.given_up.set()
                raise
        yield self.event({"choices": [], "usage": usage})
        yield "data: [DONE]\n\n"

    def event(self, chunk: dict[str, Any]) -> str:
        return f"data: {json.dumps(chunk)}\n\n"

    def held(self, body: dict[str, Any]) -> bool:
        """To a grammar, behind whose end vLLM draws the stop token, too."""
        return not body.keys().isdisjoint({"response_format", "structured_outputs"})

    def choice(self, piece: Piece, body: dict[str, Any]) -> dict[str, Any]:
        by_token = piece.end == "stop" and not body["stop"]
        drawn = [*piece.prompt, *piece.drawn]
        drawn += [SampledToken(next(iter(self.engine.stops)), -0.1)] if by_token else []
        found: dict[str, Any] = {
            "index": 0,
            "text": piece.text,
            "finish_reason": piece.end and (self.end or piece.end),
        }
        found["token_ids"] = [one.token for one in drawn[len(piece.prompt) :]]
        found["stop_reason"] = None if by_token or not piece.end else next(iter(body["stop"]), None)
        if "logprobs" in body:
            found["logprobs"] = {
                "tokens": [f"token_id:{one.token}" for one in drawn],
                "token_logprobs": [one.logprob for one in drawn],
                "top_logprobs": [
                    {f"token_id:{token}": value for token, value in one.top} or None
                    for one in drawn
                ],
            }
        return found

    def request(self, body: dict[str, Any]) -> GenerationRequest:
        tokenizer = self.engine.model.tokenizer
        schema = body.get("response_format", {}).get("json_schema", {}).get("schema")
        grammar = schema_grammar(tokenizer, schema) if schema else None
        if calls := body.get("structured_outputs"):
            grammar = ToolCallGrammar(from_tokenizer(tokenizer), calls["grammar"])
        sampling = SamplingSettings(
            max_tokens=body["max_tokens"],
            temperature=body["temperature"],
            top_p=0.0 if body["top_k"] == 1 else body["top_p"],
            seed=body["seed"],
            stop=tuple(body["stop"]),
            frequency_penalty=body["frequency_penalty"],
            presence_penalty=body["presence_penalty"],
            bias={int(token): value for token, value in (body["logit_bias"] or {}).items()},
            top_logprobs=body.get("logprobs"),
            grammar=grammar,
        )
        adapter = self.loaded.get(body["model"])
        salt = body.get("cache_salt")
        return GenerationRequest(
            tuple(body["prompt"]), sampling, adapter, bool(body.get("echo")), salt
        )


@pytest.fixture
def local(model: LanguageModel) -> Iterator[Engine]:
    engine = Engine(model)
    yield engine
    engine.close(seconds=0)


@pytest.fixture
def stand_in(local: Engine) -> StandIn:
    return StandIn(local)


@pytest.fixture
def url(stand_in: StandIn) -> Iterator[str]:
    with running(stand_in.app) as address:
        yield address


@pytest.fixture
def remote(url: str, model: LanguageModel) -> Iterator[VllmBackend]:
    backend = VllmBackend(url, len(model.tokenizer))
    yield backend
    backend.close(seconds=5)


def answer(backend: Backend, request: GenerationRequest) -> dict[str, Any]:
    """All of an answer but how much of its prompt was computed before."""
    with backend.submit(request) as found:
        pieces = list(found)
    drawn = [one for piece in pieces for one in (*piece.prompt, *piece.drawn)]
    used = pieces[-1].used
    assert used
    return {
        "text": "".join(piece.text for piece in pieces),
        "tokens": [(one.token, len(one.top)) for one in drawn],
        "logprobs": [one.logprob or 0.0 for one in drawn],
        "prompt": sum(len(piece.prompt) for piece in pieces),
        "end": pieces[-1].end,
        "used": (used.prompt, used.drawn),
    }


def test_answers_are_those_of_the_engine(
    local: Engine, remote: VllmBackend, model: LanguageModel, adapters: dict[str, str]
) -> None:
    greedy: dict[str, Any] = {"max_tokens": 12, "temperature": 0.0}
    tokens = tuple(model.tokenizer("where is my parcel")["input_ids"])
    plain = answer(local, GenerationRequest(tokens, SamplingSettings(**greedy)))["text"]
    likely = answer(local, GenerationRequest(tokens, SamplingSettings(**greedy, top_logprobs=0)))[
        "tokens"
    ][0][0]
    functions = [{"name": "find", "parameters": SCHEMA}]
    calls = call_grammar(model.tokenizer, functions, several=False)
    requests = [
        GenerationRequest(tokens, SamplingSettings(**greedy)),
        GenerationRequest(tokens, SamplingSettings(**greedy, top_logprobs=3)),
        GenerationRequest(tokens, SamplingSettings(**greedy), adapter=adapters["plain"]),
        GenerationRequest(tokens, SamplingSettings(**greedy, top_logprobs=2), prompt_logprobs=True),
        GenerationRequest(
            tokens, SamplingSettings(max_tokens=0, top_logprobs=1), prompt_logprobs=True
        ),
        GenerationRequest(tokens, SamplingSettings(max_tokens=0)),
        GenerationRequest(
            tokens, SamplingSettings(max_tokens=12, temperature=1.3, top_p=0.8, seed=7)
        ),
        GenerationRequest(tokens, SamplingSettings(max_tokens=12, top_p=0.0, seed=7)),
        GenerationRequest(
            tokens, SamplingSettings(**greedy, frequency_penalty=1.5, presence_penalty=0.5)
        ),
        GenerationRequest(tokens, SamplingSettings(**greedy, stop=(plain[3:6],))),
        GenerationRequest(tokens, SamplingSettings(**greedy, bias={likely: -100.0})),
        GenerationRequest(
            tokens,
            SamplingSettings(**greedy, bias={next(iter(local.stops)): 100.0}, top_logprobs=1),
        ),
        GenerationRequest(
            tokens, SamplingSettings(max_tokens=90, grammar=calls, top_logprobs=0, seed=1)
        ),
        GenerationRequest(
            tokens,
            SamplingSettings(
                max_tokens=90, grammar=schema_grammar(model.tokenizer, SCHEMA), seed=1
            ),
        ),
    ]
    found = [answer(remote, request) for request in requests]
    for own, request in zip(found, requests, strict=True):
        expected = answer(local, request)
        prompt, drawn = expected["used"]
        assert own == expected | {
            "logprobs": pytest.approx(expected["logprobs"], abs=1e-4),
            "used": (prompt, drawn + (request.sampling.grammar is not None)),
        }
    assert len({one["text"] for one in found}) > 5
    assert json.loads(found[-1]["text"])["a"] in ("x", "y")
    assert parse_tool_calls(found[-2]["text"], ["find"], limited=False)[1][0].name == "find"
    assert remote.counters().generated == sum(one["used"][1] for one in found)


@pytest.mark.parametrize("seed", [-1, 1 << 70])
def test_any_seed_is_one(remote: VllmBackend, seed: int) -> None:
    request = GenerationRequest(
        (5, 6, 7), SamplingSettings(max_tokens=12, temperature=1.3, seed=seed)
    )
    assert answer(remote, request) == answer(remote, request)


def test_projects_share_no_beginning(remote: VllmBackend) -> None:
    known = [0]
    for project in ("a", "b", None, "a"):
        answer(
            remote, GenerationRequest((5,) * 50, SamplingSettings(max_tokens=1), project=project)
        )
        known.append(remote.counters().cached)
    assert known == [0, 0, 0, 0, 49]


def test_an_adapter_is_loaded_once_and_again_where_it_was_forgotten(
    stand_in: StandIn, remote: VllmBackend, adapters: dict[str, str]
) -> None:
    request = GenerationRequest(
        (5, 6, 7), SamplingSettings(max_tokens=3, temperature=0.0), adapter=adapters["plain"]
    )
    first = answer(remote, request)
    (name,) = stand_in.loaded
    assert stand_in.loaded[name] == adapters["plain"]
    again = VllmBackend(
        remote.url, remote.vocabulary
    )  # we began anew, and vLLM knows the name already
    assert answer(again, request)["text"] == first["text"]
    again.close()
    stand_in.loaded.clear()  # vLLM began anew
    assert answer(remote, request)["text"] == first["text"]
    assert list(stand_in.loaded) == [name]


def test_an_adapter_is_named_by_its_whole_path(
    stand_in: StandIn,
    remote: VllmBackend,
    adapters: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = Path(adapters["plain"])
    monkeypatch.chdir(folder.parent)
    answer(remote, GenerationRequest((5,), SamplingSettings(max_tokens=1), adapter=folder.name))
    answer(remote, GenerationRequest((5,), SamplingSettings(max_tokens=1), adapter=str(folder)))
    assert list(stand_in.loaded.values()) == [str(folder)]


def test_an_adapter_that_is_not_loaded_is_said_with_the_reason(
    remote: VllmBackend, adapters: dict[str, str], tmp_path: Path
) -> None:
    late = tmp_path / "late"
    request = GenerationRequest((5,), SamplingSettings(max_tokens=1), adapter=str(late))
    with refused("adapter_not_loaded", ModelError, path=str(late)) as error:
        answer(remote, request)
    assert error.value.fields["reason"] == f"No adapter found for {late}"  # vLLM's own words
    shutil.copytree(adapters["plain"], late)
    assert answer(remote, request)["end"] == "length"


def test_an_answer_that_nobody_reads_is_given_up(stand_in: StandIn, remote: VllmBackend) -> None:
    with remote.submit(GenerationRequest((5, 6, 7), SamplingSettings(max_tokens=400))) as found:
        next(iter(found))
    assert stand_in.given_up.wait(10)


def test_a_server_that_is_gone_is_said(url: str, remote: VllmBackend) -> None:
    remote.url = url.replace("/v1", "/v2")
    with api_refused("model_server_refused", status=500):
        answer(remote, GenerationRequest((5,), SamplingSettings(max_tokens=1)))
    remote.url = "http://127.0.0.1:9/v1"
    with api_refused("model_server_silent", status=503):
        answer(remote, GenerationRequest((5,), SamplingSettings(max_tokens=1)))
    with api_refused("context_length_exceeded", 512, 600):
        remote.submit(GenerationRequest((5,) * 600, SamplingSettings(max_tokens=1)))
    with api_refused("unsupported_parameter", param="response_format"):
        remote.submit(
            GenerationRequest(
                (5,), SamplingSettings(max_tokens=1, grammar=lambda: pytest.fail("never drawn"))
            )
        )
    with refused("not_a_vllm_server", url=url.replace("/v1", "/v2")):
        VllmBackend(url.replace("/v1", "/v2"), 10)
    with api_refused("model_server_silent", status=503):
        VllmBackend("http://127.0.0.1:9/v1", 10)


def test_what_it_refuses_is_the_asker_s_to_mend(
    remote: VllmBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("burnish.inference.vllm._SEED", 80)
    with api_refused("model_server_refused", "Input should be less than"):  # vLLM's own words
        answer(remote, GenerationRequest((5,), SamplingSettings(max_tokens=1, seed=1 << 70)))


def test_an_answer_that_it_gives_up_is_none(stand_in: StandIn, remote: VllmBackend) -> None:
    stand_in.end = "abort"
    with api_refused("model_server_broke_off", status=503):
        answer(remote, GenerationRequest((5,), SamplingSettings(max_tokens=2)))


def test_the_routes_hand_on(url: str, tiny_folder: Path, tmp_path: Path) -> None:
    settings = Settings(tmp_path, models={"tiny": str(tiny_folder)})
    there = open_server(settings, opened=partial(open_on_vllm, url))
    form: Any = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
    turns: Any = [{"role": "user", "content": "where is my parcel"}]
    with (
        running(make_app(there)) as address,
        openai.OpenAI(api_key="none", base_url=address) as client,
    ):
        create = client.chat.completions.create
        reply = create(model="tiny", messages=turns, response_format=form, logprobs=True)
        assert json.loads(str(reply.choices[0].message.content))["a"] in ("x", "y")
        assert reply.choices[0].logprobs
        assert reply.choices[0].logprobs.content
        with create(model="tiny", messages=turns, max_tokens=5, stream=True) as stream:
            assert list(stream)[-1].choices[0].finish_reason in ("stop", "length")


def test_what_does_not_fit_together_is_said(tmp_path: Path) -> None:
    settings = Settings(tmp_path, models={"tiny": "tiny"})
    assert base_opener(settings, "transformers") is None
    with refused("option_unused", option="--vllm-url", value="http://gpu/v1"):
        base_opener(settings, "transformers", "http://gpu/v1")
    with refused("vllm_without_url"):
        base_opener(settings, "vllm", None)
    two = Settings(tmp_path, models={"a": "tiny", "b": "tiny"})
    with refused("not_one_model", models=["a", "b"]):
        base_opener(two, "vllm", "http://gpu/v1")
