"""A model behind the ordinary API as a voice: chat completions, and completions that echo.

What a server does not tell is left open: token ids of the prompt (`return_token_ids`, which this
project's server and vLLM know), log-probabilities, `echo`. Then the lengths and texts count.
"""

import os
from collections.abc import Sequence
from typing import Any, Self

import httpx2
from llguidance.hf import from_tokenizer

from burnish.errors import ModelError
from burnish.parity.difference import Heard
from burnish.parity.record import Said

_SECONDS = 300.0
# Alternatives a token: where the answers part, the reference's token is most likely among them.
_TOP = 5
_Json = dict[str, Any]
_Token = tuple[int, bytes]


class Endpoint:
    """One model of a server.

    Args:
        url: the server's base URL, ending in /v1.
        model: how the server calls the model.
        tokenizer: of the run; the reference's tokens are spelt with it.
    """

    def __init__(self, url: str, model: str, tokenizer: Any) -> None:
        self.url, self.model = url.rstrip("/"), model
        self._tokens = from_tokenizer(tokenizer)
        key = os.environ.get("OPENAI_API_KEY", "none")
        self._client = httpx2.Client(timeout=_SECONDS, headers={"Authorization": f"Bearer {key}"})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def heard(self, said: Sequence[Said]) -> list[Heard]:
        """What the model says to the reference's prompts.

        Raises:
            ModelError: the server cannot be reached, or gives no chat completions.
        """
        return [self._heard(one) for one in said]

    def prompt_ids(self, said: Said, reply: _Json) -> tuple[int, ...] | None:
        """The prompt's tokens as the server rendered it, where it tells them."""
        told = reply.get("prompt_token_ids")
        return tuple(int(token) for token in told) if told is not None else None

    def _heard(self, said: Said) -> Heard:
        reply = self._chat(said)
        try:
            choice = reply["choices"][0]
            wanted = list(zip(said.answer, self._spelt(said), strict=True))
            answer = _Answer(wanted, choice)
            length = (reply.get("usage") or {}).get("prompt_tokens")
        except (LookupError, TypeError, ValueError) as error:
            raise self._wrong(error) from error
        echoed = self.echoed(said)
        logprobs = [b if a is None else a for a, b in zip(answer.logprobs, echoed, strict=True)]
        return Heard(self.prompt_ids(said, reply), length, answer.at, tuple(logprobs))

    def _chat(self, said: Said) -> _Json:
        wanted: _Json = {
            "model": self.model,
            **said.body,
            "max_tokens": len(said.answer),
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": _TOP,
        }
        reply = self._post("chat/completions", wanted | {"return_token_ids": True})
        if reply.status_code in (400, 422):  # a server that knows no such field
            reply = self._post("chat/completions", wanted)
        try:
            reply.raise_for_status()
            found: _Json = reply.json()
        except (httpx2.HTTPError, ValueError) as error:
            raise self._wrong(error) from error
        return found

    def echoed(self, said: Said) -> list[float | None]:
        """Log-probabilities of the reference's own tokens behind its own prompt.

        None each, where the server does not echo.
        """
        wanted = {
            "model": self.model,
            "prompt": [*said.prompt, *said.answer],
            "max_tokens": 0,
            "echo": True,
            "logprobs": 1,
        }
        unknown: list[float | None] = [None] * len(said.answer)
        reply = self._post("completions", wanted)
        try:
            values = reply.json()["choices"][0]["logprobs"]["token_logprobs"]
            own = values[len(said.prompt) : len(said.prompt) + len(said.answer)]
        except (LookupError, TypeError, ValueError):
            return unknown
        if len(own) < len(said.answer):
            return unknown
        return [None if value is None else float(value) for value in own]

    def _spelt(self, said: Said) -> list[bytes]:
        return [bytes(self._tokens.decode_bytes([token])) for token in said.answer]

    def _post(self, route: str, wanted: _Json) -> httpx2.Response:
        try:
            return self._client.post(f"{self.url}/{route}", json=wanted)
        except httpx2.HTTPError as error:
            raise self._wrong(error) from error

    def _wrong(self, error: Exception) -> ModelError:
        return ModelError(
            f"{self.model} at {self.url} gave no answer that can be read ({error})",
            "name a server that knows chat completions, and a model that it has",
            code="bad_reply",
            model=self.model,
            url=self.url,
            reason=str(error),
        )


class _Answer:
    """A reply beside the reference's answer: where it leaves it, and what it says up to there.

    A reply need not show the token that ends it; it has the same one where it stops at its place.
    Some servers show the halves of a character as one token, with the last half's id: of the
    others nothing is known then.

    Args:
        wanted: the reference's tokens, id and bytes.
        choice: of the reply.
    """

    def __init__(self, wanted: Sequence[_Token], choice: _Json) -> None:
        told = (choice.get("logprobs") or {}).get("content")
        self.logprobs: list[float | None] = [None] * len(wanted)
        self._wanted = wanted
        if told is None:
            text = str((choice.get("message") or {}).get("content") or "").encode()
            self.at = _first_left(wanted, text)
        else:
            self.at = self._read(told, stopped=choice.get("finish_reason") == "stop")

    def _read(self, told: Sequence[_Json], *, stopped: bool) -> int | None:
        """Goes through both; the first place where they part."""
        place = 0
        for one in told:
            if place == len(self._wanted):
                return place
            last = self._last(one, place)
            if last is None:
                self.logprobs[place] = _among(one.get("top_logprobs") or (), self._wanted[place])
                return place
            self.logprobs[last] = float(one["logprob"])
            place = last + 1
        left = b"".join(own for _, own in self._wanted[place:])
        if not left or (stopped and place == len(self._wanted) - 1) or _is_half(left):
            return None
        return place

    def _last(self, one: _Json, place: int) -> int | None:
        """The place of the last of our tokens that the server shows as this one."""
        if _is(one, self._wanted[place]):
            return place
        spelt = b""
        for last, (_, own) in enumerate(self._wanted[place:], place):
            spelt += own
            if spelt == _bytes_of(one):
                return last
            if not _is_half(spelt):
                return None
        return None


def _first_left(wanted: Sequence[_Token], text: bytes) -> int | None:
    """The first token that a text without token bounds does not go on with; the last may stop."""
    for place, (_, own) in enumerate(wanted):
        if not text.startswith(own):
            return None if not text and place == len(wanted) - 1 else place
        text = text[len(own) :]
    return None


def _among(top: Sequence[_Json], own: _Token) -> float | None:
    return next((float(one["logprob"]) for one in top if _is(one, own)), None)


def _is(one: _Json, own: _Token) -> bool:
    """Whether it is that token, by the id that some servers tell, else by its bytes."""
    if isinstance(one.get("id"), int):
        return bool(one["id"] == own[0])
    return _bytes_of(one) == own[1]


def _bytes_of(one: _Json) -> bytes:
    told = one.get("bytes")
    return bytes(told) if told is not None else str(one["token"]).encode()


def _is_half(spelt: bytes) -> bool:
    """Whether the bytes end within a character."""
    return spelt.decode(errors="ignore").encode() != spelt
