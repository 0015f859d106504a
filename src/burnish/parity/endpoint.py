"""Compares a served model over the OpenAI API: chat completions, and completions with `echo`.

Servers differ in what they report: token ids of the prompt (`return_token_ids`, which this
project's server and vLLM support), log-probabilities, `echo`. Where they are missing, only the
lengths and texts are compared.
"""

import contextlib
from collections.abc import Sequence
from typing import Any

from llguidance.hf import from_tokenizer

from burnish.errors import ModelError
from burnish.models.endpoint import Endpoint
from burnish.parity.difference import ProbeResult
from burnish.parity.record import ReferenceAnswer

# Alternatives per token: where the answers differ, the reference's token is usually among them.
_TOP = 5
_Json = dict[str, Any]
_Token = tuple[int, bytes]


class ServedForm:
    """A model on a server.

    Args:
        url, model: see `Endpoint`.
        tokenizer: the run's tokenizer; it converts the reference's tokens to bytes.
    """

    def __init__(self, url: str, model: str, tokenizer: Any) -> None:
        self.endpoint = Endpoint(url, model, "chat completions")
        self._tokens = from_tokenizer(tokenizer)

    def probe(self, references: Sequence[ReferenceAnswer]) -> list[ProbeResult]:
        """Send the reference's prompts to the model.

        Raises:
            ModelError: the server cannot be reached, or does not return chat completions.
        """
        with contextlib.closing(self.endpoint):
            return [self._probe(one) for one in references]

    def prompt_ids(self, reference: ReferenceAnswer, reply: _Json) -> tuple[int, ...] | None:
        """The prompt's token ids as the server rendered it; None if it does not report them."""
        reported = reply.get("prompt_token_ids")
        return tuple(int(token) for token in reported) if reported is not None else None

    def _probe(self, reference: ReferenceAnswer) -> ProbeResult:
        reply = self._chat(reference)
        try:
            tokens = list(zip(reference.answer, self._bytes(reference), strict=True))
            answer = _Answer(tokens, reply["choices"][0])
            length = (reply.get("usage") or {}).get("prompt_tokens")
        except (LookupError, TypeError, ValueError) as error:
            raise self.endpoint.bad_reply(error) from error
        pairs = zip(answer.logprobs, self.echo_logprobs(reference), strict=True)
        logprobs = [echoed if own is None else own for own, echoed in pairs]
        return ProbeResult(self.prompt_ids(reference, reply), length, answer.at, tuple(logprobs))

    def _chat(self, reference: ReferenceAnswer) -> _Json:
        body: _Json = {
            "model": self.endpoint.model,
            **reference.body,
            "max_tokens": len(reference.answer),
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": _TOP,
        }
        try:
            reply: _Json = self.endpoint.post("chat/completions", body | {"return_token_ids": True})
        except ModelError as error:
            if error.fields.get("status") not in (400, 422):
                raise
            reply = self.endpoint.post("chat/completions", body)  # the server rejects the field
        return reply

    def echo_logprobs(self, reference: ReferenceAnswer) -> list[float | None]:
        """Log-probabilities of the reference's answer tokens after its prompt.

        All are None if the server does not support `echo`.
        """
        try:
            tokens = [*reference.prompt, *reference.answer]
            values = self.endpoint.echoed(tokens)[len(reference.prompt) : len(tokens)]
            return [None if value is None else float(value) for value in values]
        except (ModelError, TypeError, ValueError):
            return [None] * len(reference.answer)

    def _bytes(self, reference: ReferenceAnswer) -> list[bytes]:
        return [bytes(self._tokens.decode_bytes([token])) for token in reference.answer]


class _Answer:
    """Aligns a reply with the reference's answer: where it differs, and its log-probabilities.

    A reply may omit the stop token; it counts as equal if the reply stops at that position.
    Some servers merge the tokens of one character into one, with the id of the last; the
    log-probabilities of the others are then unknown.

    Args:
        tokens: the reference's tokens, each as id and bytes.
        choice: the first choice of the reply.
    """

    def __init__(self, tokens: Sequence[_Token], choice: _Json) -> None:
        reported = (choice.get("logprobs") or {}).get("content")
        self.logprobs: list[float | None] = [None] * len(tokens)
        self._tokens = tokens
        if reported is None:
            text = str((choice.get("message") or {}).get("content") or "").encode()
            self.at = _first_mismatch(tokens, text)
        else:
            self.at = self._read(reported, stopped=choice.get("finish_reason") == "stop")

    def _read(self, reported: Sequence[_Json], *, stopped: bool) -> int | None:
        """Walk both answers and return the index of the first token that differs."""
        index = 0
        for one in reported:
            if index == len(self._tokens):
                return index
            last = self._last(one, index)
            if last is None:
                self.logprobs[index] = _among(one.get("top_logprobs") or (), self._tokens[index])
                return index
            self.logprobs[last] = float(one["logprob"])
            index = last + 1
        rest = b"".join(own for _, own in self._tokens[index:])
        if not rest or (stopped and index == len(self._tokens) - 1) or _is_half(rest):
            return None
        return index

    def _last(self, one: _Json, index: int) -> int | None:
        """Index of the last reference token that this reported token covers; None if none does."""
        if _is(one, self._tokens[index]):
            return index
        piece = b""
        for last, (_, own) in enumerate(self._tokens[index:], index):
            piece += own
            if piece == _bytes_of(one):
                return last
            if not _is_half(piece):
                return None
        return None


def _first_mismatch(tokens: Sequence[_Token], text: bytes) -> int | None:
    """Index of the first token that is not in the text; a final stop token may be missing."""
    for index, (_, own) in enumerate(tokens):
        if not text.startswith(own):
            return None if not text and index == len(tokens) - 1 else index
        text = text[len(own) :]
    return None


def _among(top: Sequence[_Json], own: _Token) -> float | None:
    return next((float(one["logprob"]) for one in top if _is(one, own)), None)


def _is(one: _Json, own: _Token) -> bool:
    """Whether both are the same token: by the id if the server reports it, else by the bytes."""
    if isinstance(one.get("id"), int):
        return bool(one["id"] == own[0])
    return _bytes_of(one) == own[1]


def _bytes_of(one: _Json) -> bytes:
    reported = one.get("bytes")
    return bytes(reported) if reported is not None else str(one["token"]).encode()


def _is_half(piece: bytes) -> bool:
    """Whether the bytes end in the middle of a character."""
    return piece.decode(errors="ignore").encode() != piece
