"""Server-sent events as the API writes them, errors in their midst included."""

import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from burnish.errors import UserError
from burnish.inference.errors import InferenceError
from burnish.serving.errors import ApiError, inference_error, refused

# Proxies must neither keep nor join events.
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def streamed(events: AsyncIterator[BaseModel]) -> StreamingResponse:
    """Each event a `data:` line of JSON; `[DONE]` at the end."""
    return StreamingResponse(_lines(events), media_type="text/event-stream", headers=_HEADERS)


async def _lines(events: AsyncIterator[BaseModel]) -> AsyncIterator[str]:
    try:
        async for event in events:
            yield _line(event.model_dump(mode="json", exclude_unset=True))
        yield "data: [DONE]\n\n"
    except ApiError as error:  # the status went out with the first line
        yield _line(error.body)
    except InferenceError as error:
        yield _line(inference_error(error).body)
    except UserError as error:
        yield _line(refused(error).body)


def _line(event: Any) -> str:
    return f"data: {json.dumps(event, ensure_ascii=False, separators=(',', ':'))}\n\n"
