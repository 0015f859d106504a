"""A served model says what the same model says in memory, over real HTTP."""

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from burnish.conversation import Message
from burnish.errors import ModelError
from burnish.models.endpoint import RemoteModel
from burnish.models.interface import Choice, Sampling
from burnish.models.language_model import LanguageModel
from burnish.models.load import load_model
from tests.json_server import answering
from tests.refused import refused

CHAT = (Message("user", "where is my parcel"),)


@contextlib.contextmanager
def served(model: LanguageModel, *, forgets: bool = False) -> Iterator[str]:
    """Chat completions, and legacy completions with echo, of a model; its base URL."""

    def answered(asked: dict[str, Any]) -> dict[str, Any]:
        prompt = tuple(Message(turn["role"], turn["content"]) for turn in asked["messages"])
        sampling = Sampling(asked["max_tokens"], asked["temperature"])
        (found,) = model.generate([prompt], sampling)
        ended = "stop" if found.finished else "length"
        return {"message": {"content": found.text}, "finish_reason": ended}

    def echoed(asked: dict[str, Any]) -> dict[str, Any]:
        tokens = torch.tensor([asked["prompt"]])
        logprobs = model.module.eval()(input_ids=tokens).logits[0, :-1].log_softmax(-1)
        values = logprobs.gather(-1, tokens[0, 1:, None])[:, 0].tolist()
        return {"logprobs": {"token_logprobs": [None, *values][: 3 if forgets else None]}}

    def reply(path: str, asked: dict[str, Any]) -> dict[str, Any]:
        with torch.no_grad():
            chat = path.endswith("/chat/completions")
            return {"choices": [answered(asked) if chat else echoed(asked)]}

    with answering(reply) as url:
        yield url


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> LanguageModel:
    return load_model(str(tiny_folder), "cpu")


def test_the_three_verbs_say_what_the_model_says(model: LanguageModel) -> None:
    items = [Choice("where is", (" my parcel", " tent")), Choice(CHAT, ("yes", "no parcel"))]
    texts = ["red green blue", "the tent is torn, please send me another one " * 40]
    sampling = Sampling(max_new_tokens=6)
    with served(model) as url:
        remote = RemoteModel(url, "tiny", model.tokenizer, model.context_length)
        for found, own in zip(remote.score(items), model.score(items), strict=True):
            assert found.logprobs == pytest.approx(own.logprobs, abs=1e-4)
            assert found.characters == own.characters
        for loss, own_loss in zip(remote.nll(texts), model.nll(texts), strict=True):
            assert loss.tokens == own_loss.tokens
            assert loss.nats == pytest.approx(own_loss.nats, rel=1e-4)
        (answer,), (expected,) = (one.generate([CHAT], sampling) for one in (remote, model))
        assert (answer.text, answer.finished) == (expected.text, expected.finished)


def test_other_weights_under_the_same_name_are_another_model(model: LanguageModel) -> None:
    with served(model) as url:
        first, again = (RemoteModel(url, "tiny", model.tokenizer, 512) for _ in range(2))
        weight = model.network.model.get_output_embeddings().weight  # type: ignore[union-attr]
        with torch.no_grad():
            weight.mul_(1.5)  # type: ignore[operator]
            changed = RemoteModel(url, "tiny", model.tokenizer, 512)
            weight.div_(1.5)  # type: ignore[operator]
    assert first.fingerprint == again.fingerprint != changed.fingerprint


@pytest.mark.parametrize(
    ("message", "code", "fields", "shown"),
    [
        (
            "The model `mine` does not exist",
            "unknown_model",
            {"model": "mine"},
            "/v1/models",
        ),
        ("Not Found", "bad_reply", {}, "404 - Not Found"),
    ],
)
def test_a_model_that_the_server_lacks_is_told_in_one_line(
    message: str, code: str, fields: dict[str, Any], shown: str, model: LanguageModel
) -> None:
    with (
        answering(lambda *_: {"status": 404, "error": {"message": message}}) as url,
        refused(code, ModelError, **fields) as error,
    ):
        RemoteModel(url, "mine", model.tokenizer, 512)
    assert shown in str(error.value)
    assert "\n" not in str(error.value)


def test_a_server_that_cannot_say_it_is_told(model: LanguageModel) -> None:
    with (
        served(model, forgets=True) as url,
        refused("tokens_differ", ModelError, tokens=3),
    ):
        RemoteModel(url, "tiny", model.tokenizer, 512)
    with refused("bad_reply", ModelError):
        RemoteModel(url, "tiny", model.tokenizer, 512)


@pytest.mark.parametrize(
    ("said", "text", "finished"),
    [
        ("at home\nuser:\nand now", "at home", True),
        ("assistant: no", "", True),
        ("the user: x", "the user: x", False),
    ],
)
def test_an_answer_ends_where_another_speaks(
    model: LanguageModel, said: str, text: str, finished: bool
) -> None:
    """Of a model without a chat template, whatever the server does with stop strings."""
    requests: list[Any] = []

    def reply(path: str, asked: dict[str, Any]) -> dict[str, Any]:
        if not path.endswith("/chat/completions"):
            return {"choices": [{"logprobs": {"token_logprobs": [0.0] * len(asked["prompt"])}}]}
        requests.append(asked.get("stop"))
        return {"choices": [{"message": {"content": said}, "finish_reason": "length"}]}

    plain = copy.deepcopy(model.tokenizer)
    plain.chat_template = None
    with answering(reply) as url:
        (answer,) = RemoteModel(url, "x", plain, 512).generate([CHAT], Sampling(stop=("~",)))
        (whole,) = RemoteModel(url, "x", model.tokenizer, 512).generate([CHAT], Sampling())
    assert (answer.text, answer.finished) == (text, finished)
    assert (whole.text, whole.finished) == (said, False)
    assert requests == [["~", "\nsystem:", "\nuser:", "\nassistant:"], None]
