"""A model behind an OpenAI-compatible server, asked how likely the tokens of given rows are."""

from collections.abc import Sequence
from typing import Any

import httpx2
import torch
from torch import Tensor

from burnish.errors import ModelError
from burnish.models.branches import Network, Row

# The most alternatives a token that servers of this kind return.
_ALTERNATIVES = 20
_SECONDS = 120.0


class ServedModel:
    """Log-probabilities of the likeliest tokens at each weighted position of a row.

    The server must know the legacy completions with `echo` and `logprobs`, and have the tokenizer
    of the student: rows are sent as token ids.

    Args:
        url: the server's base URL, ending in /v1.
        model: how the server calls the model.
        tokenizer: of student and teacher.
        key: sent as bearer token.
    """

    def __init__(self, url: str, model: str, tokenizer: Any, key: str = "none") -> None:
        self.url, self.model, self.tokenizer = url.rstrip("/"), model, tokenizer
        headers = {"Authorization": f"Bearer {key}"}
        self._client = httpx2.Client(timeout=_SECONDS, headers=headers)
        self._ids: dict[str, int] | None = None
        # Given text is asked about once, however many epochs read it.
        self._kept: dict[tuple[int, ...], list[dict[int, float]]] = {}

    def logprobs(self, network: Network, rows: Sequence[Row]) -> Any:
        """A function from a slice of the weighted positions to log-probabilities (n, V); -inf
        where the server names no probability."""
        found = [
            values
            for row in rows
            for values, weight in zip(self._row(row), row.weights, strict=True)
            if weight
        ]
        size = int(network.config.vocab_size)

        def read(which: slice) -> Tensor:
            chosen = found[which]
            logprobs_N_V = torch.full((len(chosen), size), -torch.inf)
            for place, values in enumerate(chosen):
                ids = torch.tensor(list(values), dtype=torch.long)
                logprobs_N_V[place, ids] = torch.tensor(list(values.values()))
            return logprobs_N_V.to(network.device)

        return read

    def _row(self, row: Row) -> list[dict[int, float]]:
        key = tuple(row.tokens)
        if key not in self._kept:
            self._kept[key] = self._ask(key)
        return self._kept[key]

    def _ask(self, tokens: tuple[int, ...]) -> list[dict[int, float]]:
        wanted = {
            "model": self.model,
            "prompt": list(tokens),
            "max_tokens": 0,
            "echo": True,
            "logprobs": _ALTERNATIVES,
        }
        try:
            reply = self._client.post(f"{self.url}/completions", json=wanted)
            reply.raise_for_status()
            places = reply.json()["choices"][0]["logprobs"]["top_logprobs"]
        except (httpx2.HTTPError, KeyError, IndexError, TypeError, ValueError) as error:
            raise ModelError(
                f"the teacher at {self.url} gave no log-probabilities ({error})",
                "start a server whose completions know echo and logprobs, or name a local teacher",
                code="bad_reply",
                url=self.url,
                reason=str(error),
            ) from error
        if len(places) != len(tokens):
            raise ModelError(
                f"the teacher at {self.url} counts {len(places)} tokens where we have "
                f"{len(tokens)}",
                "use a teacher with the student's tokenizer",
                code="tokens_differ",
                url=self.url,
                tokens=len(places),
                expected=len(tokens),
            )
        return [
            {self._id(text): float(value) for text, value in (place or {}).items()}
            for place in places
        ]

    def _id(self, text: str) -> int:
        if text.startswith("token_id:"):
            return int(text.removeprefix("token_id:"))
        if self._ids is None:
            size = len(self.tokenizer)
            texts = self.tokenizer.batch_decode([[number] for number in range(size)])
            # Of tokens that read alike (halves of characters) the first stands for all.
            self._ids = {text: number for number, text in reversed(list(enumerate(texts)))}
        if text not in self._ids:
            raise ModelError(
                f"the teacher at {self.url} writes the token {text!r}, which the student has not",
                "use a teacher with the student's tokenizer",
                code="unknown_token",
                url=self.url,
                token=text,
            )
        return self._ids[text]
