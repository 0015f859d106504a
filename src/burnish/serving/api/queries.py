"""What every route takes from its request: the service, and where a list goes on."""

from typing import Annotated

from fastapi import Depends, Query, Request

from burnish.serving.service import Service


def _service(request: Request) -> Service:
    found: Service = request.app.state.service
    return found


Shared = Annotated[Service, Depends(_service)]
After = Annotated[str | None, Query(max_length=64)]
