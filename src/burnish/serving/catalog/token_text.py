"""Tokens as the API shows them: the text, and the bytes where a token is half a character."""

import codecs
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from llguidance import LLTokenizer
from llguidance.hf import from_tokenizer
from openai.types.chat.chat_completion_token_logprob import ChatCompletionTokenLogprob, TopLogprob
from openai.types.completion_choice import Logprobs

from burnish.inference.types import SampledToken


class TokenText:
    """The bytes of each token of one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokens: LLTokenizer = from_tokenizer(tokenizer)
        added = tokenizer.added_tokens_decoder
        self._special = frozenset(token for token, one in added.items() if one.special)

    def token_bytes(self, token: int) -> bytes:
        """What the token stands for; a special token its name."""
        return bytes(self._tokens.decode_bytes([token]))

    def token_string(self, token: int) -> str:
        """The same as text; half a character as the API's escape."""
        return bytes_to_string(self.token_bytes(token))

    def chat_logprobs(self, drawn: Sequence[SampledToken]) -> list[ChatCompletionTokenLogprob]:
        """The log-probabilities of a chat reply."""
        return [
            ChatCompletionTokenLogprob(
                token=self.token_string(one.token),
                bytes=list(self.token_bytes(one.token)),
                logprob=_number(one.logprob),
                top_logprobs=[
                    TopLogprob(
                        token=self.token_string(token),
                        bytes=list(self.token_bytes(token)),
                        logprob=_number(logprob),
                    )
                    for token, logprob in one.top
                ],
            )
            for one in drawn
        ]

    def completion_logprobs(
        self, prompt: Sequence[SampledToken], answer: Sequence[SampledToken], offset: int, top: int
    ) -> Logprobs:
        """Those of a completion whose first token begins at `offset` of prompt and answer.

        The very first token of an echoed prompt has no log-probability and no alternatives. The
        parts of one character all stand where the character does, and a special token of the
        answer, whose text leaves it out, where the next one does. The token itself is always among
        its alternatives, beside the `top` likeliest ones.
        """
        read = codecs.getincrementaldecoder("utf-8")("replace")
        drawn = (*prompt, *answer)
        offsets = []
        for place, one in enumerate(drawn):
            offsets.append(offset)
            if place < len(prompt) or one.token not in self._special:
                offset += len(read.decode(self.token_bytes(one.token)))
        alternatives: list[Any] = [
            {
                self.token_string(token): _number(logprob)
                for token, logprob in (*one.top[:top], (one.token, one.logprob))
            }
            if one.logprob is not None
            else None
            for one in drawn
        ]
        return Logprobs.construct(
            tokens=[self.token_string(one.token) for one in drawn],
            token_logprobs=[None if d.logprob is None else _number(d.logprob) for d in drawn],
            top_logprobs=alternatives if top else None,
            text_offset=offsets,
        )


@lru_cache(maxsize=4096)
def bytes_to_string(token_bytes: bytes) -> str:
    """Bytes as text; bytes that are none are escaped as the API does."""
    try:
        return token_bytes.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token_bytes)


def _number(logprob: float | None) -> float:
    """JSON has no infinity; the API writes -9999 for what cannot happen."""
    return -9999.0 if logprob is None or logprob < -9999.0 else logprob
