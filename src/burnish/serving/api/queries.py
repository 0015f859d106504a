"""What every route takes from its request: the service, and where a list goes on."""

from dataclasses import replace
from typing import Annotated

from fastapi import Depends, Query, Request

from burnish.serving.api.guard import actor_of
from burnish.serving.service import Service


def _service(request: Request) -> Service:
    """Writes in the name of the request's key, so that the audit log says who did it."""
    found: Service = request.app.state.service
    return replace(found, database=found.database.acting(actor_of(request)))


Shared = Annotated[Service, Depends(_service)]
After = Annotated[str | None, Query(max_length=64)]
