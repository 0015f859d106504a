"""A model behind an OpenAI-compatible server, measured by the same verbs as one in memory."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2

from burnish.conversation import Conversation
from burnish.data.chat_templates import next_speaker_index, speaker_prefixes
from burnish.data.row_errors import RowFormatError
from burnish.data.tool_calls import offered_tools, tool_call_text
from burnish.errors import ModelError
from burnish.models.interface import Choice, Generation, Sampling, Scores, Stream, TextLoss
from burnish.models.tokenize import token_windows, tokenize_choice

_SECONDS = 120.0
# Requests under way at once: servers batch them.
_AT_ONCE = 8
# Stop strings that the API takes; at the others an answer is cut here.
_MOST_STOPS = 4
# What tells one model from another under the same name: how likely it finds these words.
_PROBE = "The quick brown fox jumps over the lazy dog, and then it rests."


class RemoteModel:
    """The three verbs over HTTP: chat completions to generate, legacy completions with `echo` and
    `logprobs` to score and to measure text loss.

    Args:
        url: the server's base URL, ending in /v1.
        model: how the server calls the model.
        tokenizer: of the model; prompts are sent as token ids.
        length: tokens that the model reads at once.
    """

    def __init__(self, url: str, model: str, tokenizer: Any, length: int) -> None:
        self.url, self.model, self.tokenizer = url.rstrip("/"), model, tokenizer
        self.length = length
        self.name = f"{model} at {self.url}"
        self.source_sha256 = ""
        key = os.environ.get("OPENAI_API_KEY", "none")
        self._client = httpx2.Client(timeout=_SECONDS, headers={"Authorization": f"Bearer {key}"})
        tokens = token_windows(_PROBE, tokenizer, length)[0]
        said = ",".join(f"{value:.2f}" for value in self._logprobs(tokens)[1:])
        self.fingerprint = hashlib.sha256(f"{self.name} {said}".encode()).hexdigest()

    def close(self) -> None:
        """Lets go of the connections."""
        self._client.close()

    def generate(
        self, prompts: Sequence[Conversation], sampling: Sampling, stream: Stream | None = None
    ) -> list[Generation]:
        found = self._all(lambda prompt: self._answer(prompt, sampling), prompts)
        if stream is not None:
            for place, answer in enumerate(found):
                stream(place, answer.text)
        return found

    def score(self, items: Sequence[Choice]) -> list[Scores]:
        return self._all(self._scores, items)

    def nll(self, texts: Sequence[str]) -> list[TextLoss]:
        return self._all(self._loss, texts)

    def _answer(self, prompt: Conversation, sampling: Sampling) -> Generation:
        wanted: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": turn.role, "content": turn.content} for turn in prompt],
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
        }
        speakers = speaker_prefixes(self.tokenizer)
        if stops := [*sampling.stop, *speakers][: max(_MOST_STOPS, len(sampling.stop))]:
            wanted["stop"] = stops
        if tools := offered_tools(prompt):
            wanted["tools"] = tools
        choice = self._post("chat/completions", wanted)
        try:
            said = choice["message"]["content"], tool_call_text(choice["message"], "message.")
            text = "\n".join(part for part in said if part)
        except (KeyError, TypeError, RowFormatError) as error:
            raise self._wrong(error) from error
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
        wanted = {
            "model": self.model, "prompt": tokens, "max_tokens": 0, "echo": True, "logprobs": 1
        }  # fmt: skip
        choice = self._post("completions", wanted)
        try:
            values = [float(value or 0.0) for value in choice["logprobs"]["token_logprobs"]]
        except (KeyError, TypeError) as error:
            raise self._wrong(error) from error
        if len(values) < len(tokens):
            raise ModelError(
                f"{self.name} counts {len(values)} tokens where we have {len(tokens)}",
                "compare with a model of the run's own tokenizer",
                code="tokens_differ",
                model=self.name,
                tokens=len(values),
                expected=len(tokens),
            )
        return values[: len(tokens)]

    def _post(self, route: str, wanted: dict[str, Any]) -> dict[str, Any]:
        try:
            reply = self._client.post(f"{self.url}/{route}", json=wanted)
            if reply.status_code == 404 and self.model in reply.text:  # no unknown route names it
                raise ModelError(
                    f"{self.url} knows no model {self.model!r}",
                    f"name one that {self.url}/models lists with --served-name",
                    code="unknown_model",
                    model=self.model,
                    url=self.url,
                )
            reply.raise_for_status()
            choice: dict[str, Any] = reply.json()["choices"][0]
        except (httpx2.HTTPError, KeyError, IndexError, TypeError, ValueError) as error:
            raise self._wrong(error) from error
        return choice

    def _wrong(self, error: Exception) -> ModelError:
        what = str(error).partition("\n")[0]  # the second line is a link on what a status means
        return ModelError(
            f"{self.name} gave no answer that can be read ({what})",
            "start a server that knows chat completions, and completions with echo and logprobs",
            code="bad_reply",
            model=self.name,
            reason=what,
        )

    def _all(self, ask: Any, things: Sequence[Any]) -> list[Any]:
        """In order; several requests are under way at once."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(ask, things))
