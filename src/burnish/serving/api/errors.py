"""The API's errors: the status, and the body that the official client reads.

ApiError
├── not_found        404: no such file, job, model, checkpoint, route
├── invalid          400: a value that cannot be used, with the parameter's name
├── forbidden        403: the key has no such scope
└── unauthorized     401: no key, or one that is not known
"""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from burnish.errors import UserError


class ApiError(Exception):
    """An answer that is an error: `{"error": {"message", "type", "param", "code"}}`."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message = status, message
        self.kind, self.param, self.code = kind, param, code
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}

    @property
    def response(self) -> JSONResponse:
        """The whole answer, for those that answer before any route."""
        return JSONResponse(self.body, self.status, headers=self.headers)


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A value that cannot be used."""
    return ApiError(400, message, param=param, code=code)


def not_found(what: str, name: str, param: str = "id") -> ApiError:
    """Such as `No such File object: file-123`."""
    return ApiError(404, f"No such {what}: {name}", param=param, code="not_found")


def model_not_found(name: str) -> ApiError:
    """As the API says it of a model that does not exist, or that the key may not use."""
    message = f"The model `{name}` does not exist or you do not have access to it."
    return ApiError(404, message, param="model", code="model_not_found")


def unauthorized(message: str) -> ApiError:
    """No key, or one that is not known."""
    return ApiError(401, message, code="invalid_api_key")


def forbidden(message: str) -> ApiError:
    """A key without the scope that this needs."""
    return ApiError(403, message, kind="insufficient_permissions", code="missing_scope")


def add_handlers(app: FastAPI) -> None:
    """Every error leaves in the API's shape, also those of the framework and of Burnish."""

    @app.exception_handler(ApiError)
    async def said(_: Request, error: ApiError) -> JSONResponse:
        return error.response

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
        param = ".".join(place) or None
        said = f"Invalid value for {param!r}: {first['msg']}." if param else f"{first['msg']}."
        found = invalid(said, param)
        return JSONResponse(found.body, found.status)

    @app.exception_handler(UserError)
    async def refused(_: Request, error: UserError) -> JSONResponse:
        found = invalid(f"{error}")
        return JSONResponse(found.body, found.status)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 404:
            message = f"Invalid URL ({request.method} {request.url.path})"
            found = ApiError(404, message, code="unknown_url")
        else:
            found = ApiError(error.status_code, str(error.detail))
        return JSONResponse(found.body, found.status, headers=error.headers)

    @app.exception_handler(Exception)
    async def ours(_: Request, __: Exception) -> JSONResponse:
        message = "The server had an error while processing your request. Its log says which."
        found = ApiError(500, message, kind="server_error")
        return JSONResponse(found.body, found.status)
