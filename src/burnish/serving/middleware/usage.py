"""What an answer used, told by its route and read by limits, metrics and log."""

from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

from openai.types import CompletionUsage
from openai.types.completion_usage import CompletionTokensDetails, PromptTokensDetails
from starlette.requests import HTTPConnection

from burnish.inference.stream import AnswerStream
from burnish.inference.types import TokenCounts

_PLACE = "burnish.usage"
# Models here think of nothing that they do not say, and hear nothing.
_WRITTEN = CompletionTokensDetails(
    accepted_prediction_tokens=0, audio_tokens=0, reasoning_tokens=0, rejected_prediction_tokens=0
)


@dataclass(slots=True)
class Usage:
    """Tokens of one request; `cached` is the part of the prompt that was not computed again.

    `first` is when the first token was ready, in seconds after the request came; None: none was.
    """

    prompt: int = 0
    cached: int = 0
    generated: int = 0
    first: float | None = None

    @property
    def tokens(self) -> int:
        return self.prompt + self.generated

    def count(self, answers: Iterable[AnswerStream], ended: TokenCounts | None = None) -> None:
        """All answers as far as they are; several answers to one prompt read it once."""
        self.generated = sum(answer.drawn for answer in answers)
        if ended is not None:
            self.cached = max(self.cached, ended.cached)

    @property
    def told(self) -> CompletionUsage:
        """As the API says it."""
        return CompletionUsage(
            prompt_tokens=self.prompt,
            completion_tokens=self.generated,
            total_tokens=self.tokens,
            prompt_tokens_details=PromptTokensDetails(audio_tokens=0, cached_tokens=self.cached),
            completion_tokens_details=_WRITTEN,
        )


def usage_of(request: HTTPConnection) -> Usage:
    """The request's own; fill it in before the answer ends."""
    return usage_in(request.scope)


def usage_in(scope: MutableMapping[str, Any]) -> Usage:
    found: Usage = scope.setdefault(_PLACE, Usage())
    return found
