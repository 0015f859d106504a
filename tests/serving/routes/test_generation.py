"""Chat, completions, embeddings and models through the official client, on a tiny model."""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import torch

from burnish.evaluation.graders import SamplingRequest
from burnish.models.endpoint import RemoteModel
from burnish.models.load import load_model
from burnish.serving.app.app import make_app
from burnish.serving.catalog.server import Server, open_server
from burnish.serving.routes import completions
from burnish.serving.routes.embeddings import EmbeddingRequest, _rows
from burnish.serving.state.installation import Settings
from tests.serving.api_refused import api_refused, quotes
from tests.serving.conftest import running

HELLO: Any = [{"role": "user", "content": "where is my parcel"}]
NAMELESS: Any = {
    "type": "string_check",
    "name": "\ud800",
    "input": "{{sample.output_text}}",
    "reference": "red",
    "operation": "eq",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Server:
    folder = tmp_path_factory.mktemp("serving")
    return open_server(Settings(folder, models={"tiny": str(tiny_folder)}), device="cpu")


@pytest.fixture(scope="module")
def address(server: Server) -> Iterator[str]:
    with running(make_app(server)) as found:
        yield found


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        api_key="none", base_url=address, max_retries=0, _strict_response_validation=True
    ) as found:
        yield found


@pytest.fixture(scope="module")
def loose(address: str) -> Iterator[openai.OpenAI]:
    """The API itself breaks the client's types of legacy completions: what is not there is null."""
    with openai.OpenAI(api_key="none", base_url=address, max_retries=0) as found:
        yield found


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", "all-minilm-l6-v2"]
    assert client.models.retrieve("tiny").owned_by == "burnish"
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("ft:tiny:local::nobody")
    assert error.value.code == "model_not_found"
    with api_refused("model_is_base", "tiny", param="model"):
        client.models.delete("tiny")


def test_a_greedy_reply_is_the_models_own(client: openai.OpenAI, tiny_folder: Path) -> None:
    from burnish.conversation import Message
    from burnish.models.interface import Sampling

    own = load_model(str(tiny_folder), "cpu").generate(
        [(Message("user", "where is my parcel"),)], Sampling(max_new_tokens=12)
    )[0]
    reply = client.chat.completions.create(
        model="tiny", messages=HELLO, temperature=0, max_tokens=12, logprobs=True, top_logprobs=2
    )
    choice = reply.choices[0]
    assert choice.message.content == own.text
    assert choice.finish_reason == ("stop" if own.finished else "length")
    assert reply.usage is not None
    assert reply.usage.completion_tokens == len(own.tokens)
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert sum(token.logprob for token in choice.logprobs.content) == pytest.approx(
        own.logprob, abs=1e-3
    )
    for token in choice.logprobs.content:
        assert token.top_logprobs[0].token == token.token  # greedy
        assert len(token.top_logprobs) == 2


def test_a_stream_says_the_same(client: openai.OpenAI) -> None:
    wanted: Any = {"model": "tiny", "messages": HELLO, "seed": 3, "n": 2, "max_tokens": 9}
    whole = client.chat.completions.create(**wanted)
    texts, ends = ["", ""], {}
    usage = None
    for chunk in client.chat.completions.create(
        **wanted, stream=True, stream_options={"include_usage": True}
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            ends |= {choice.index: choice.finish_reason} if choice.finish_reason else {}
    assert texts == [choice.message.content for choice in whole.choices]
    assert texts[0] != texts[1]
    assert [ends[0], ends[1]] == [choice.finish_reason for choice in whole.choices]
    assert usage is not None
    assert whole.usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens


def test_a_schema_is_kept(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"queue": {"enum": ["red", "blue"]}, "sure": {"type": "boolean"}},
        "required": ["queue", "sure"],
        "additionalProperties": False,
    }
    reply = client.chat.completions.create(
        model="tiny",
        messages=HELLO,
        max_tokens=120,
        seed=1,
        response_format={"type": "json_schema", "json_schema": {"name": "q", "schema": schema}},
    )
    found = json.loads(reply.choices[0].message.content or "")
    assert found["queue"] in ("red", "blue")
    assert isinstance(found["sure"], bool)


@pytest.mark.parametrize(
    ("wanted", "param", "code"),
    [
        ({"temperature": 3}, "temperature", "integer_above_max_value"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_parameter_combination"),
        ({"logit_bias": {"a": 1}}, "logit_bias", "invalid_token"),
        ({"logit_bias": {"1": 101}}, "logit_bias", "decimal_above_max_value"),
        ({"logit_bias": {"1": -101}}, "logit_bias", "decimal_below_min_value"),
        ({"max_tokens": 100_000}, "messages", "context_length_exceeded"),
        ({"messages": []}, "messages", "empty_array"),
        (
            {"tools": [{"type": "function", "function": {"name": "f"}}]},
            "tools",
            "unsupported_parameter",
        ),
        ({"extra_body": {"temprature": 1}}, "temprature", "unknown_parameter"),
        *(
            (
                {"response_format": {"type": "json_schema", "json_schema": {"name": name}}},
                "response_format.json_schema.name",
                "invalid_value",
            )
            for name in ("", "a b", "x" * 65, "queue\n", "größe", "a.b")
        ),
    ],
)
def test_what_cannot_be_used_is_named(
    client: openai.OpenAI, wanted: dict[str, Any], param: str, code: str
) -> None:
    given: Any = {"model": "tiny", "messages": HELLO} | wanted
    with api_refused(code, param=param):
        client.chat.completions.create(**given)


@pytest.mark.parametrize("prompt", [[], [[]], [[1], []]])
def test_a_list_of_no_prompts_is_refused(client: openai.OpenAI, prompt: Any) -> None:
    with api_refused("empty_array", 1, 0) as error:
        client.completions.create(model="tiny", prompt=prompt)
    assert str(error.value.param).startswith("prompt")


@pytest.mark.parametrize(
    ("given", "code", "param", "values"),
    [
        ({"messages": []}, "empty_array", "messages", [1, 0]),
        ({"messages": ["hello"]}, "invalid_type", "messages[0]", ["object", '"hello"']),
        ({"messages": {"role": "user"}}, "invalid_type", "messages", ["array", "object"]),
        (
            {"messages": [{"role": "user", "content": 5}]},
            "invalid_type",
            "messages[0].content",
            ["string", "array", "integer"],
        ),
        ({"stop": ["a", 2]}, "invalid_type", "stop[1]", ["string", "integer"]),
        ({"stop": list("abcde")}, "array_above_max_length", "stop", [4, 5]),
        ({"stream": "yes"}, "invalid_type", "stream", ["true", "false", '"yes"']),
        ({"n": 1.5}, "invalid_type", "n", ["number"]),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a b"}}},
            "invalid_value",
            "response_format.json_schema.name",
            ['"a b"', "'^[a-zA-Z0-9_-]{1,64}$'"],
        ),
        ({"top_p": 2}, "integer_above_max_value", "top_p", [1, 2]),
    ],
)
def test_a_value_that_cannot_be_used_is_told_with_what_is_expected(
    address: str, given: dict[str, Any], code: str, param: str, values: list[object]
) -> None:
    body = {"model": "tiny", "messages": HELLO} | given
    answer = httpx2.post(f"{address}/chat/completions", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)
    assert quotes(error, f"'{param}'", *values)
    assert "Input should" not in error["message"]  # pydantic's words


def test_a_judge_is_asked_no_more_than_its_context(server: Server) -> None:
    long = [{"role": "user", "content": "parcel " * 600}]
    with api_refused("context_length_exceeded", 512):
        server.engines.ask("tiny", long, SamplingRequest(max_tokens=5))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/chat/completions", {"model": "\ud800", "messages": HELLO}),
        (
            "/chat/completions",
            {"model": "tiny", "messages": [{"role": "user", "content": "\ud83d"}]},
        ),
        ("/completions", {"model": "tiny", "prompt": ["a", "\udc00"]}),
        ("/embeddings", {"model": "all-minilm-l6-v2", "input": "a \ud800"}),
        ("/fine_tuning/alpha/graders/validate", {"grader": NAMELESS}),
        (
            "/fine_tuning/jobs",
            {
                "model": "tiny",
                "training_file": "file-any",
                "method": {"type": "reinforcement", "reinforcement": {"grader": NAMELESS}},
            },
        ),
    ],
)
@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "utf-16"])
def test_half_a_surrogate_pair_is_refused(
    loose: openai.OpenAI, path: str, body: dict[str, Any], encoding: str
) -> None:
    """Wherever it stands: a job that kept one could never be shown, nor be in a list."""
    said = json.dumps(body, ensure_ascii=encoding == "ascii").encode(encoding, "surrogatepass")
    sent: Any = {"content": said, "headers": {"content-type": "application/json; charset=x"}}
    answer = httpx2.post(f"{loose.base_url}{path[1:]}", **sent)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "half_surrogate_pair")


def test_other_characters_are_taken(loose: openai.OpenAI) -> None:
    body = {"model": "tiny", "prompt": "tent \N{TENT} \0", "max_tokens": 1}
    for said in (json.dumps(body).encode(), json.dumps(body, ensure_ascii=False).encode("utf-16")):
        sent: Any = {"content": said, "headers": {"content-type": "application/json"}}
        assert httpx2.post(f"{loose.base_url}completions", **sent).status_code == 200
    files = f"{loose.base_url}files"
    sent = {"content": b"\0", "headers": {"content-type": "application/json"}}
    assert httpx2.request("GET", files, **sent).status_code == 200
    assert httpx2.post(files, **sent).status_code == 400


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "application/json"),
        (b"[]", "application/json"),
        (b'{"model": "tiny", "prompt": "red"}', "application/x-www-form-urlencoded"),
    ],
)
def test_a_body_that_is_no_object_is_told_what_it_should_be(
    address: str, content: bytes, kind: str
) -> None:
    headers = {"content-type": kind}
    answer = httpx2.post(f"{address}/completions", content=content, headers=headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "not_an_object", None)
    assert quotes(error, "'Content-Type: application/json'")


def test_a_number_out_of_its_bounds_is_said(client: openai.OpenAI) -> None:
    with api_refused("integer_below_min_value", 1, 0, param="limit"):
        client.fine_tuning.jobs.list(limit=0)
    with api_refused("decimal_above_max_value", 2, 2.5, param="temperature"):
        client.completions.create(model="tiny", prompt="red", temperature=2.5)


def test_an_unknown_model_and_an_unknown_route(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as error:
        client.chat.completions.create(model="gpt-9", messages=HELLO)
    assert error.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError) as error:
        client.images.generate(prompt="a tent")
    assert error.value.code == "unknown_url"


def test_a_long_name_does_not_come_back_whole(loose: openai.OpenAI) -> None:
    name = "m" * 100_000
    asked: Any = {"messages": HELLO}
    for body in (
        {"model": name},
        {"model": "tiny", name: 1},
        {"model": "tiny", "\n" * 100_000: 1},
    ):
        with pytest.raises(openai.APIStatusError) as error:
            loose.post("/chat/completions", body={**asked, **body}, cast_to=object)
        assert len(error.value.response.content) < 25_000
        told: Any = error.value.body
        assert "…" in told["message"]
        assert len(told["param"]) <= 200
    with pytest.raises(openai.NotFoundError) as missing:
        loose.files.retrieve("f" * 5_000)
    assert len(missing.value.response.content) < 1_000


def test_completions_echo_how_likely_a_text_is(loose: openai.OpenAI, tiny_folder: Path) -> None:
    model = load_model(str(tiny_folder), "cpu")
    tokens = model.tokenizer("the tent is torn", add_special_tokens=False)["input_ids"]
    reply = loose.completions.create(
        model="tiny", prompt=tokens, echo=True, logprobs=2, max_tokens=0
    )
    found = reply.choices[0].logprobs
    assert reply.choices[0].text == "the tent is torn"
    assert found is not None
    assert found.token_logprobs is not None
    assert found.token_logprobs[0] is None
    with torch.no_grad():
        logits = model.module(input_ids=torch.tensor([tokens])).logits[0].log_softmax(-1)
    own = [float(logits[place, token]) for place, token in enumerate(tokens[1:])]
    assert found.token_logprobs[1:] == pytest.approx(own, abs=1e-4)
    assert "".join(found.tokens or []) == "the tent is torn"
    assert found.text_offset is not None
    assert found.text_offset[0] == 0


@pytest.mark.parametrize("echo", [True, False])
def test_offsets_are_places_in_prompt_and_answer(loose: openai.OpenAI, echo: bool) -> None:
    """Each byte of a character that is several tokens stands where the character does."""
    prompt = "red \N{TENT} tent"
    given: Any = {"model": "tiny", "prompt": prompt, "echo": echo, "logprobs": 0, "max_tokens": 3}
    given |= {"logit_bias": {"70": 100}, "temperature": 0}
    choice = loose.completions.create(**given).choices[0]
    whole = choice.text if echo else prompt + choice.text
    assert choice.logprobs
    assert choice.logprobs.tokens
    places = choice.logprobs.text_offset or []
    for place, token in zip(places, choice.logprobs.tokens, strict=True):
        assert whole[place:].startswith("\N{TENT}" if token.startswith("bytes:") else token)
    assert places[-3:] == [len(prompt), len(prompt) + 1, len(prompt) + 2]
    chunks = list(loose.completions.create(**given, stream=True))
    told = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices]
    assert [one for found in told if found for one in found.text_offset or []] == places


def test_a_prompt_that_is_too_long_is_named(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(model="tiny", prompt="red " * 600)
    assert (error.value.param, error.value.code) == ("prompt", "context_length_exceeded")


def test_completions_of_several_prompts(client: openai.OpenAI, loose: openai.OpenAI) -> None:
    reply = client.completions.create(
        model="tiny", prompt=["red", "green"], n=2, best_of=3, max_tokens=4, seed=0
    )
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    streamed = loose.completions.create(
        model="tiny", prompt="red", max_tokens=5, temperature=0, stream=True
    )
    text = "".join(choice.text for chunk in streamed for choice in chunk.choices)
    whole = client.completions.create(model="tiny", prompt="red", max_tokens=5, temperature=0)
    assert text == whole.choices[0].text


@pytest.mark.parametrize(
    "wanted",
    [
        {"prompt": ["red"] * 257},
        {"prompt": [[5]] * 129, "n": 2},
        {"prompt": ["red"] * 16, "best_of": 17},
    ],
)
def test_more_answers_than_can_wait_are_refused(
    client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch, wanted: Any
) -> None:
    """Before any of their prompts is read."""
    monkeypatch.setattr(completions, "_prompts", None)
    with api_refused("too_many_answers", 256, param="prompt"):
        client.completions.create(model="tiny", **wanted)


def test_certify_can_ask_this_server(address: str, tiny_folder: Path) -> None:
    from burnish.models.interface import Choice

    own = load_model(str(tiny_folder), "cpu")
    remote = RemoteModel(address, "tiny", own.tokenizer, 512)
    items = [Choice("The tent is", (" red", " torn and wet"))]
    with contextlib.closing(remote):
        scores, found = remote.score(items)[0], remote.nll(["my parcel is red"])[0]
    assert scores.logprobs == pytest.approx(own.score(items)[0].logprobs, abs=1e-4)
    known = own.nll(["my parcel is red"])[0]
    assert found.nats == pytest.approx(known.nats, abs=1e-3)


def test_many_clients_at_once_and_some_hang_up(address: str) -> None:
    async def ask(client: openai.AsyncOpenAI, number: int) -> str:
        if number % 5 == 0:
            stream = await client.chat.completions.create(
                model="tiny", messages=HELLO, max_tokens=100, stream=True, seed=number
            )
            async for _ in stream:
                break
            await stream.close()
            return ""
        reply = await client.chat.completions.create(
            model="tiny", messages=HELLO, max_tokens=8, seed=number % 7
        )
        return reply.choices[0].message.content or ""

    async def everyone() -> list[str]:
        async with openai.AsyncOpenAI(api_key="none", base_url=address) as client:
            return list(await asyncio.gather(*(ask(client, number) for number in range(60))))

    said = asyncio.run(everyone())
    by_seed: dict[int, set[str]] = {}
    for number, text in enumerate(said):
        if number % 5:
            by_seed.setdefault(number % 7, set()).add(text)
    assert all(len(texts) == 1 for texts in by_seed.values())


def test_embeddings_are_of_length_one(loose: openai.OpenAI, embedder: None) -> None:
    del embedder
    texts = ["where is my parcel", "my package has not come", "an aria by Verdi"]
    found = loose.embeddings.create(model="all-minilm-l6-v2", input=texts)
    a, b, c = (torch.tensor(one.embedding) for one in found.data)
    assert float(a.norm()) == pytest.approx(1, abs=1e-4)
    assert float(a @ b) > float(a @ c)
    short = loose.embeddings.create(model="all-minilm-l6-v2", input=texts[0], dimensions=100)
    assert len(short.data[0].embedding) == 100
    plain: Any = {"model": "all-minilm-l6-v2", "input": texts[0], "encoding_format": None}
    unsaid: Any = loose.post("/embeddings", body=plain, cast_to=object)
    assert unsaid["data"][0]["embedding"] == pytest.approx(found.data[0].embedding, abs=1e-6)
    for none, code in (
        ("", "invalid_value"),
        ([], "empty_array"),
        (["a"] * 2049, "array_above_max_length"),
    ):
        with api_refused(code, param="input"):
            loose.embeddings.create(model="all-minilm-l6-v2", input=none)
    with api_refused("integer_above_max_value", 384, param="dimensions"):
        loose.embeddings.create(model="all-minilm-l6-v2", input="tent", dimensions=385)
    with api_refused("invalid_token", param="input"):
        loose.embeddings.create(model="all-minilm-l6-v2", input=[10_000_000])
    for long in ("tent " * 500_000, [7] * 500_000, ["tent", "tent " * 100_000]):
        with api_refused("context_length_exceeded", 512, param="input"):
            loose.embeddings.create(model="all-minilm-l6-v2", input=long)


def test_no_text_is_read_after_one_that_is_too_long() -> None:
    class Reader:
        context, read = 2, 0

        def encoded(self, text: str) -> list[int]:
            self.read += 1
            return [1] * len(text)

    reader: Any = Reader()
    body = EmbeddingRequest(model="tiny", input=["ab", "abcd", *["ab"] * 1000])
    with api_refused("context_length_exceeded", 4, param="input"):
        _rows(body, reader)
    assert reader.read == 2


def test_a_text_too_long_to_embed_has_no_grade(loose: openai.OpenAI, embedder: None) -> None:
    del embedder
    grader: Any = {
        "type": "text_similarity",
        "name": "alike",
        "input": "{{sample.output_text}}",
        "reference": "a tent",
        "evaluation_metric": "cosine",
    }
    run = loose.fine_tuning.alpha.graders.run
    assert run(grader=grader, model_sample="a tent").reward == pytest.approx(1)
    found = run(grader=grader, model_sample="tent " * 600)
    assert (found.reward, found.metadata.errors.other_error) == (0, True)


@pytest.fixture
def embedder() -> None:
    from burnish.errors import ModelError
    from burnish.models.registry import resolve

    try:
        resolve("all-minilm-l6-v2")
    except ModelError as error:
        pytest.skip(f"the built-in encoder cannot be had: {error}")
