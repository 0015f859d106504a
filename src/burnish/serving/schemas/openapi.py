"""What the served OpenAPI document says of answers that no route's return type tells."""

from typing import Any

from openai.types import Completion, CompletionChoice
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

Responses = dict[int | str, dict[str, Any]]


class ErrorDetail(BaseModel):
    """What is wrong; `code` is for programs, `param` the place in the request."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    """The body of every answer that is an error."""

    error: ErrorDetail


ERRORS: Responses = {
    "4XX": {"model": ErrorBody, "description": "The request cannot be done, and why."},
    507: {"model": ErrorBody, "description": "The server's disk is full."},
    503: {"model": ErrorBody, "description": "Too much is asked, or the server ends; come back."},
}


class EchoedLogprobs(BaseModel):
    """Those of a completion; the first token of an echoed prompt has none, so its place is null."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None] | None


class EchoedChoice(CompletionChoice):
    """The client's type knows no null among the log-probabilities."""

    logprobs: EchoedLogprobs | None = None  # type: ignore[assignment]


class EchoedCompletion(Completion):
    """A completion as it is answered."""

    choices: list[EchoedChoice]  # type: ignore[assignment]


_STREAM = {"text/event-stream": {"schema": {"type": "string"}}}
CHAT: Responses = {200: {"model": ChatCompletion, "content": _STREAM}}
COMPLETION: Responses = {200: {"model": EchoedCompletion, "content": _STREAM}}
BYTES: Responses = {
    200: {
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    }
}
