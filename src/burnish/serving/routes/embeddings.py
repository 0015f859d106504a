"""The route of embeddings."""

import base64
import math
import struct
from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from burnish.inference.embedder import Embedder
from burnish.inference.lengths import TooLongError
from burnish.serving.errors import ApiError, invalid
from burnish.serving.middleware.request_state import project_of, usage_of
from burnish.serving.routes.generation import run_in_thread_if_large
from burnish.serving.schemas.sampling import Array, Body

router = APIRouter()
# The API's own bound.
_INPUTS = 2048


class EmbeddingRequest(Body):
    """The body of an embeddings request."""

    input: str | Array[str] | Array[int] | Array[Array[int]]
    model: str
    dimensions: Annotated[int, Field(ge=1)] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None


class Vector(BaseModel):
    """The embedding of one input; with `base64` it is encoded as 4-byte floats."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Count(BaseModel):
    """The number of tokens of all inputs."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(BaseModel):
    """The embeddings of all inputs, in their order."""

    object: Literal["list"]
    data: list[Vector]
    model: str
    usage: Count


@router.post("/embeddings", summary="Create embeddings", response_model=Embeddings)
async def create(body: EmbeddingRequest, request: Request) -> dict[str, Any]:
    """Return an embedding for each input, a text or a list of tokens, in their order."""
    find, project = request.app.state.service.engines.embedder, project_of(request)
    embedder: Embedder = await to_thread.run_sync(find, body.model, project)
    rows = await run_in_thread_if_large(request, _rows, body, embedder)
    size = body.dimensions or embedder.size
    if size > embedder.size:
        raise invalid(
            f"{body.model} has {embedder.size} dimensions, fewer than the {size} requested.",
            "dimensions",
            "integer_above_max_value",
        )
    embedded = await to_thread.run_sync(embedder.embed, rows)
    result = [_shortened(numbers, size) for numbers in embedded]
    tokens = sum(len(row) for row in rows)
    usage_of(request).prompt = tokens
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": place, "embedding": _shown(own, body.encoding_format)}
            for place, own in enumerate(result)
        ],
        "model": body.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _rows(body: EmbeddingRequest, embedder: Embedder) -> list[list[int]]:
    given: Any = body.input
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        given = [given]
    message = f"'input' must contain 1 to {_INPUTS} inputs, none of them empty."
    if not given or not all(given):
        raise invalid(message, "input", "empty_array" if not given else "invalid_value")
    if len(given) > _INPUTS:
        raise invalid(message, "input", "array_above_max_length")
    rows = [_row(one, embedder) for one in given]
    if any(not 0 <= token < len(embedder.tokenizer) for row in rows for token in row):
        raise invalid(
            "'input' contains a number that is not a token id of the model.",
            "input",
            "invalid_token",
        )
    return rows


def _row(given: str | list[int], embedder: Embedder) -> list[int]:
    """The first that is too long is refused: no other is read for nothing."""
    try:
        row = embedder.encoded(given) if isinstance(given, str) else list(given)
    except TooLongError as error:
        raise _too_long(embedder, f"more than {error.least}") from error
    if len(row) > embedder.context:
        raise _too_long(embedder, f"{len(row)}")
    return row


def _too_long(embedder: Embedder, count: str) -> ApiError:
    limit = f"This model's maximum context length is {embedder.context} tokens"
    message = f"{limit}, but an input has {count}."
    return invalid(message, "input", "context_length_exceeded")


def _shortened(numbers: list[float], size: int) -> list[float]:
    """The first numbers, again of length 1."""
    if size == len(numbers):
        return numbers
    length = math.hypot(*numbers[:size])
    return [number / max(length, 1e-12) for number in numbers[:size]]


def _shown(numbers: list[float], encoding: str | None) -> list[float] | str:
    if encoding != "base64":
        return numbers
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()
