"""The web application: the routes under /v1, with limits, API keys, metrics and the log around
them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, FastAPI
from fastapi.responses import Response

from burnish.serving.app.exception_handlers import add_handlers
from burnish.serving.catalog.server import Server
from burnish.serving.middleware.auth import Authentication
from burnish.serving.middleware.drain import Drain, DrainRequests
from burnish.serving.middleware.limits import Limits
from burnish.serving.middleware.metrics import Metrics
from burnish.serving.middleware.observe import RequestLog
from burnish.serving.routes import (
    chat,
    completions,
    embeddings,
    files,
    graders,
    jobs,
    models,
    permissions,
    uploads,
)
from burnish.serving.routes.dependencies import whole_characters
from burnish.serving.schemas.openapi import ERRORS
from burnish.serving.state.jobs import by_status
from burnish.serving.state.keys import Limiter

_ROUTES = (files, uploads, models, chat, completions, embeddings, jobs, permissions, graders)
# Beside the file itself, a form holds its name and purpose; a part of an upload may be so large.
_FORM, _PART = 1 << 20, 64 << 20


# Requests with long prompts, each of which takes a core and many times its size meanwhile.
_PREPARED_AT_ONCE = 2


def make_app(service: Server, host: str = "127.0.0.1", drain: float = 30.0) -> FastAPI:
    """Return the application that serves the models, files and jobs of a service.

    Args:
        service: what the routes share; closed when the application ends.
        host: where it listens: off loopback, keys are asked for.
        drain: seconds that answers under way get when the server is told to stop.
    """
    metrics = Metrics()

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        """Close the service when the application ends."""
        yield
        await to_thread.run_sync(service.drain, drain)

    # Its pages of documentation would load scripts from elsewhere.
    checks = [Depends(whole_characters)]
    app = FastAPI(
        title="Burnish", lifespan=life, dependencies=checks, docs_url=None, redoc_url=None
    )
    app.state.service, app.state.drain = service, Drain()
    app.state.preparing = CapacityLimiter(_PREPARED_AT_ONCE)
    add_handlers(app)
    largest = max(service.settings.max_file_bytes, _PART) + _FORM
    for part in _ROUTES:
        app.include_router(part.router, prefix="/v1", responses=ERRORS, max_body_size=largest)

    @app.head("/health", include_in_schema=False)
    @app.get("/health", summary="Check that the server runs")
    async def health() -> dict[str, str]:
        """Report that the server is running. No API key is needed."""
        return {"status": "ok"}

    @app.get("/metrics", include_in_schema=False)
    def measured() -> Response:
        """Return the server's metrics in the text format of Prometheus."""
        return metrics.response()

    metrics.watch_queue(lambda: service.engines.waiting)
    metrics.watch_jobs(lambda: by_status(service.database))
    app.add_middleware(Limits, form=largest)
    app.add_middleware(
        Authentication, sessions=service.database.reading, host=host, limiter=Limiter()
    )
    app.add_middleware(DrainRequests, drain=app.state.drain)
    app.add_middleware(RequestLog, metrics=metrics)
    return app
