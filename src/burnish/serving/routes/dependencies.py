"""What routes take from each request: the service on behalf of its key, and valid text."""

import json
import re
from dataclasses import replace
from typing import Annotated

from fastapi import Depends, Query, Request

from burnish.serving.middleware.request_state import actor_of, project_of
from burnish.serving.state.installation import Service

# Half of a surrogate pair in JSON, escaped or as bytes; JSON in UTF-16 may hold one in its own way.
_HALF = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]|\x00")


async def whole_characters(request: Request) -> None:
    """Reject a request that contains half of a surrogate pair, which could be stored but never
    returned.

    Raises:
        UnicodeEncodeError: there is one, escaped or not.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not kind.endswith("json") or not _HALF.search(await request.body()):
        return
    try:
        given = await request.json()
    except ValueError:  # no JSON, which only a route that reads it refuses
        return
    json.dumps(given, ensure_ascii=False).encode()


def _service(request: Request) -> Service:
    """Writes in the name of the request's key, so that the audit log says who did it, and shows a
    project its own files, uploads and jobs."""
    result: Service = request.app.state.service
    database = result.database.as_actor(actor_of(request), project_of(request))
    return replace(result, database=database)


Shared = Annotated[Service, Depends(_service)]
After = Annotated[str | None, Query(max_length=64)]
