"""What every route takes from its request: the service, and where a list goes on."""

from dataclasses import replace
from typing import Annotated

from fastapi import Depends, Query, Request

from burnish.serving.api.guard import actor_of, project_of
from burnish.serving.service import Service


def _service(request: Request) -> Service:
    """Writes in the name of the request's key, so that the audit log says who did it, and shows a
    project its own files, uploads and jobs."""
    found: Service = request.app.state.service
    database = found.database.acting(actor_of(request), project_of(request))
    return replace(found, database=database)


Shared = Annotated[Service, Depends(_service)]
After = Annotated[str | None, Query(max_length=64)]
