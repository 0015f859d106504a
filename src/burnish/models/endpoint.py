"""A model behind an OpenAI-compatible server: the client, and the models that are asked through it.

`Endpoint` is the one client of such servers; a run is compared with a `RemoteModel`, and a
student learns from a `ServedTeacher`.
"""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from burnish.conversation import Conversation
from burnish.data.chat_templates import next_speaker_index, speaker_prefixes
from burnish.data.row_errors import RowFormatError
from burnish.data.tool_calls import offered_tools, tool_call_text
from burnish.errors import ModelError
from burnish.models.branches import Network, Row
from burnish.models.interface import Choice, Generation, Sampling, Scores, Stream, TextLoss
from burnish.models.tokenize import token_windows, tokenize_choice

_SECONDS = 300.0
# Requests under way at once: servers batch them.
_AT_ONCE = 8
# Stop strings that the API takes; at the others an answer is cut here.
_MOST_STOPS = 4
# The most alternatives per token that servers of this kind return.
_ALTERNATIVES = 20
# What tells one model from another under the same name: how likely it finds these words.
_PROBE = "The quick brown fox jumps over the lazy dog, and then it rests."


class Endpoint:
    """One model of a server; a request that fails for a moment is sent again.

    Args:
        url: the server's base URL, ending in /v1.
        model: the model's name on the server.
        needs: the parts of the API that are used, for errors.
    """

    def __init__(self, url: str, model: str, needs: str) -> None:
        from openai import OpenAI  # takes a second to import, and few runs ask a server

        self.url, self.model, self._needs = url.rstrip("/"), model, needs
        key = os.environ.get("OPENAI_API_KEY", "none")
        self._client = OpenAI(base_url=self.url, api_key=key, timeout=_SECONDS)

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def post(self, route: str, body: Any) -> Any:
        """The JSON of a reply.

        Args:
            route: below the base URL, or a URL of its own.
            body: of the request, as JSON.

        Raises:
            ModelError: the server does not answer, or refuses; `status` is then its HTTP status.
        """
        import httpx2
        from openai import APIStatusError, OpenAIError

        try:
            return self._client.post(route, cast_to=httpx2.Response, body=body).json()
        except APIStatusError as error:
            if error.status_code == 404 and self.model in error.response.text:
                raise ModelError(  # an unknown route would not name the model
                    f"{self.url} knows no model {self.model!r}",
                    f"use the name of a model that {self.url}/models lists",
                    code="unknown_model",
                    model=self.model,
                    url=self.url,
                ) from error
            raise self.bad_reply(error, error.status_code) from error
        except (OpenAIError, ValueError) as error:
            raise self.bad_reply(error.__cause__ or error) from error

    def choice(self, route: str, **body: Any) -> dict[str, Any]:
        """The first choice of a reply.

        Raises:
            ModelError: the reply has none, or see `post`.
        """
        try:
            found: dict[str, Any] = self.post(route, {"model": self.model, **body})["choices"][0]
        except (LookupError, TypeError) as error:
            raise self.bad_reply(error) from error
        return found

    def echoed(self, tokens: Sequence[int], key: str = "token_logprobs", top: int = 1) -> list[Any]:
        """What legacy completions with `echo` say of each given token; of the first one, None.

        A server may go on with tokens of its own behind them.

        Args:
            tokens: ids of a text.
            key: `token_logprobs` or `top_logprobs`.
            top: likeliest tokens in each of the latter.

        Raises:
            ModelError: the server does not echo, or counts fewer tokens; see also `post`.
        """
        body = {"prompt": list(tokens), "max_tokens": 0, "echo": True, "logprobs": top}
        choice = self.choice("completions", **body)
        try:
            values = list(choice["logprobs"][key])
        except (KeyError, TypeError) as error:
            raise self.bad_reply(error) from error
        if len(values) < len(tokens):
            raise self.tokens_differ(len(values), len(tokens))
        return values

    def tokens_differ(self, count: int, expected: int) -> ModelError:
        """The error of a server that counts other tokens in the same text."""
        return ModelError(
            f"{self.model} at {self.url} counts {count} tokens where we have {expected}",
            "use a model that has this tokenizer",
            code="tokens_differ",
            model=self.model,
            url=self.url,
            tokens=count,
            expected=expected,
        )

    def bad_reply(self, error: BaseException, status: int | None = None) -> ModelError:
        """The error of a reply that cannot be used."""
        reason = str(error).partition("\n")[0]
        return ModelError(
            f"{self.model} at {self.url} gave no answer that can be read ({reason})",
            f"use a server with {self._needs}",
            code="bad_reply",
            model=self.model,
            url=self.url,
            status=status,
            reason=reason,
        )


class RemoteModel:
    """The three verbs over HTTP: chat completions to generate, legacy completions with `echo` and
    `logprobs` to score and to measure text loss.

    Args:
        url, model: see `Endpoint`.
        tokenizer: of the model; prompts are sent as token ids.
        length: tokens that the model reads at once.
    """

    def __init__(self, url: str, model: str, tokenizer: Any, length: int) -> None:
        needs = "chat completions, and completions that know echo and logprobs"
        self._endpoint = Endpoint(url, model, needs)
        self.tokenizer, self.length = tokenizer, length
        self.name = f"{model} at {self._endpoint.url}"
        self.source_sha256 = ""
        logprobs = self._logprobs(token_windows(_PROBE, tokenizer, length)[0])[1:]
        probe = ",".join(f"{value:.2f}" for value in logprobs)
        self.fingerprint = hashlib.sha256(f"{self.name} {probe}".encode()).hexdigest()

    def close(self) -> None:
        """Closes the connections."""
        self._endpoint.close()

    def generate(
        self, prompts: Sequence[Conversation], sampling: Sampling, stream: Stream | None = None
    ) -> list[Generation]:
        answers = self._all(lambda prompt: self._answer(prompt, sampling), prompts)
        if stream is not None:
            for index, answer in enumerate(answers):
                stream(index, answer.text)
        return answers

    def score(self, items: Sequence[Choice]) -> list[Scores]:
        return self._all(self._scores, items)

    def nll(self, texts: Sequence[str]) -> list[TextLoss]:
        return self._all(self._loss, texts)

    def _continuation(self, document: str, sampling: Sampling) -> Generation:
        """How a document goes on, by legacy completions."""
        body: dict[str, Any] = {
            "prompt": self.tokenizer(document, verbose=False)["input_ids"],
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
        }
        if sampling.stop:
            body["stop"] = list(sampling.stop[:_MOST_STOPS])
        choice = self._endpoint.choice("completions", **body)
        try:
            text = str(choice["text"])
        except (KeyError, TypeError) as error:
            raise self._endpoint.bad_reply(error) from error
        ends = [at for stop in sampling.stop if (at := text.find(stop)) >= 0]
        ended = choice.get("finish_reason") == "stop" or bool(ends)
        return Generation(text[: min(ends)] if ends else text, (), 0.0, ended)

    def _answer(self, prompt: Conversation, sampling: Sampling) -> Generation:
        if prompt[0].role == "document":
            return self._continuation(prompt[0].content, sampling)
        body: dict[str, Any] = {
            "messages": [{"role": turn.role, "content": turn.content} for turn in prompt],
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
        }
        speakers = speaker_prefixes(self.tokenizer)
        if stops := [*sampling.stop, *speakers][: max(_MOST_STOPS, len(sampling.stop))]:
            body["stop"] = stops
        if tools := offered_tools(prompt):
            body["tools"] = tools
        choice = self._endpoint.choice("chat/completions", **body)
        try:
            parts = choice["message"]["content"], tool_call_text(choice["message"], "message.")
            text = "\n".join(part for part in parts if part)
        except (KeyError, TypeError, RowFormatError) as error:
            raise self._endpoint.bad_reply(error) from error
        cut = next_speaker_index(text) if speakers else None
        ended = choice.get("finish_reason") == "stop" or cut is not None
        return Generation(text[:cut], (), 0.0, ended)

    def _scores(self, item: Choice) -> Scores:
        context, choices = tokenize_choice(item, self.tokenizer)
        sums = [sum(self._logprobs([*context, *own])[-len(own) :]) for own in choices]
        return Scores(tuple(sums), tuple(len(choice) for choice in item.choices))

    def _loss(self, text: str) -> TextLoss:
        rows = token_windows(text, self.tokenizer, self.length)
        nats = -sum(sum(self._logprobs(row)[1:]) for row in rows)
        return TextLoss(nats, sum(len(row) - 1 for row in rows))

    def _logprobs(self, tokens: list[int]) -> list[float]:
        """Of each given token; the first has none, which reads 0."""
        return [float(value or 0.0) for value in self._endpoint.echoed(tokens)[: len(tokens)]]

    def _all(self, ask: Any, things: Sequence[Any]) -> list[Any]:
        """In order; several requests are under way at once."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(ask, things))


class ServedTeacher:
    """Log-probabilities of the likeliest tokens at each weighted position of a row.

    The server must have the tokenizer of the student: rows are sent as token ids.

    Args:
        url, model: see `Endpoint`.
        tokenizer: of student and teacher.
    """

    def __init__(self, url: str, model: str, tokenizer: Any) -> None:
        self._endpoint = Endpoint(url, model, "completions that know echo and logprobs")
        self.tokenizer = tokenizer
        # Given text is asked about once, however many epochs read it.
        self._kept: dict[tuple[int, ...], list[dict[int, float]]] = {}

    def logprobs(self, network: Network, rows: Sequence[Row]) -> Any:
        """A function from a slice of the weighted positions to log-probabilities (n, V); -inf
        where the server names no probability."""
        likeliest = [
            values
            for row in rows
            for values, weight in zip(self._row(tuple(row.tokens)), row.weights, strict=True)
            if weight
        ]
        size = int(network.config.vocab_size)

        def read(which: slice) -> Tensor:
            chosen = likeliest[which]
            logprobs_N_V = torch.full((len(chosen), size), -torch.inf)
            for index, values in enumerate(chosen):
                ids = torch.tensor(list(values), dtype=torch.long)
                logprobs_N_V[index, ids] = torch.tensor(list(values.values()))
            return logprobs_N_V.to(network.device)

        return read

    def _row(self, tokens: tuple[int, ...]) -> list[dict[int, float]]:
        if tokens not in self._kept:
            values = self._endpoint.echoed(tokens, "top_logprobs", _ALTERNATIVES)
            if len(values) > len(tokens):  # such as one before the text, which would move all
                raise self._endpoint.tokens_differ(len(values), len(tokens))
            self._kept[tokens] = [
                {self._id(text): float(value) for text, value in (place or {}).items()}
                for place in values
            ]
        return self._kept[tokens]

    @cached_property
    def _ids(self) -> dict[str, int]:
        texts = self.tokenizer.batch_decode([[number] for number in range(len(self.tokenizer))])
        # Of tokens that read alike (halves of characters) the first stands for all.
        return {text: number for number, text in reversed(list(enumerate(texts)))}

    def _id(self, text: str) -> int:
        if text.startswith("token_id:"):
            return int(text.removeprefix("token_id:"))
        if text not in self._ids:
            raise ModelError(
                f"the teacher at {self._endpoint.url} writes the token {text!r}, which the "
                "student has not",
                "use a teacher with the student's tokenizer",
                code="unknown_token",
                url=self._endpoint.url,
                token=text,
            )
        return self._ids[text]
