"""Responses in the OpenAPI document that do not follow from a route's return type."""

from typing import Any

from openai.types import Completion, CompletionChoice
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

Responses = dict[int | str, dict[str, Any]]


class ErrorDetail(BaseModel):
    """What is wrong: `code` is stable and for programs, `param` names the parameter at fault."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    """The body of every error."""

    error: ErrorDetail


ERRORS: Responses = {
    "4XX": {
        "model": ErrorBody,
        "description": "The request is invalid or not allowed; the error says why.",
    },
    507: {"model": ErrorBody, "description": "The server's disk is full."},
    503: {
        "model": ErrorBody,
        "description": "The server is overloaded or shutting down; try again later.",
    },
}


class EchoedLogprobs(BaseModel):
    """Log-probabilities of a completion; those of the first token of an echoed prompt are null."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None] | None


class EchoedChoice(CompletionChoice):
    """A choice of a completion whose log-probabilities may contain null."""

    logprobs: EchoedLogprobs | None = None  # type: ignore[assignment]


class EchoedCompletion(Completion):
    """A completion as this server returns it."""

    choices: list[EchoedChoice]  # type: ignore[assignment]


_STREAM = {"text/event-stream": {"schema": {"type": "string"}}}
CHAT: Responses = {200: {"model": ChatCompletion, "content": _STREAM}}
COMPLETION: Responses = {200: {"model": EchoedCompletion, "content": _STREAM}}
BYTES: Responses = {
    200: {
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    }
}
