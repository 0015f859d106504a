"""State of one request: its API key, its body in memory, its token usage and its recorded texts.

Middleware and routes read and write it here; it is stored in the scope of the request.
"""

from collections.abc import Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from openai.types import CompletionUsage
from openai.types.completion_usage import CompletionTokensDetails, PromptTokensDetails
from starlette.requests import HTTPConnection

from burnish.inference.stream import AnswerStream
from burnish.inference.types import Generation, TokenCounts
from burnish.serving.state.keys import Key

KEY, BODY = "burnish.key", "burnish.body"
_RECORDED = "burnish.recorded"
# Bytes of a body that is prepared at once, and is not counted with the others that are held.
SHORT = 1 << 14
_USAGE = "burnish.usage"
# Models here think of nothing that they do not say, and hear nothing.
_WRITTEN = CompletionTokensDetails(
    accepted_prediction_tokens=0, audio_tokens=0, reasoning_tokens=0, rejected_prediction_tokens=0
)


@dataclass(slots=True)
class Usage:
    """Token usage of one request; `cached` is the part of the prompt that was not computed again.

    `first` is when the first token was ready, in seconds after the request came; None: none was.
    """

    prompt: int = 0
    cached: int = 0
    generated: int = 0
    first: float | None = None

    @property
    def tokens(self) -> int:
        """Prompt tokens and generated tokens together."""
        return self.prompt + self.generated

    def count(self, answers: Iterable[AnswerStream], ended: TokenCounts | None = None) -> None:
        """Update the usage from all answers of the request; a shared prompt counts once."""
        self.generated = sum(answer.drawn for answer in answers)
        if ended is not None:
            self.cached = max(self.cached, ended.cached)

    @property
    def told(self) -> CompletionUsage:
        """The usage as an object of the API."""
        return CompletionUsage(
            prompt_tokens=self.prompt,
            completion_tokens=self.generated,
            total_tokens=self.tokens,
            prompt_tokens_details=PromptTokensDetails(audio_tokens=0, cached_tokens=self.cached),
            completion_tokens_details=_WRITTEN,
        )


def usage_of(request: HTTPConnection) -> Usage:
    """Return the usage of a request; fill it in before the answer ends."""
    return usage_in(request.scope)


def usage_in(scope: MutableMapping[str, Any]) -> Usage:
    """Return the usage that is stored in a scope."""
    result: Usage = scope.setdefault(_USAGE, Usage())
    return result


def key_of(request: HTTPConnection) -> Key | None:
    """Return the API key of a request; None if the server is open to its own machine."""
    result: Key | None = request.scope.get(KEY)
    return result


def actor_of(request: HTTPConnection) -> str:
    """Return the name of the requester in the audit log."""
    key = key_of(request)
    return key.id if key else "local"


def project_of(request: HTTPConnection) -> str | None:
    """Return the project of the request's key; None for the whole organization."""
    key = key_of(request)
    return key.project if key else None


def release_body(scope: MutableMapping[str, Any]) -> None:
    """Stop counting the request's body among those in memory."""
    if BODY in scope:
        scope[BODY].release()


def record(request: Request, prompt: Any, answers: Sequence[Generation]) -> None:
    """Keep the prompt and the answers for the log if recording is on; answers may still grow."""
    if request.app.state.service.settings.record:
        request.scope[_RECORDED] = (prompt, answers)


def recorded(scope: MutableMapping[str, Any]) -> dict[str, Any] | None:
    """Return the recorded texts of a request; None if there are none."""
    if _RECORDED not in scope:
        return None
    prompt, answers = scope[_RECORDED]
    return {"prompt": prompt, "answers": [answer.text for answer in answers]}
