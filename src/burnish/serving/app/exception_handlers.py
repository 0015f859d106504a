"""Every error leaves the server in the API's format, those of the framework and of Burnish
included."""

import re
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DataError, DBAPIError
from starlette.exceptions import HTTPException

from burnish.errors import UserError
from burnish.inference.errors import InferenceError
from burnish.serving import log
from burnish.serving.app.validation_errors import validation_error
from burnish.serving.errors import ApiError, disk_full, failed, inference_error, invalid, refused
from burnish.serving.state.disk import is_full

_NO_VALUE = "A value of the request cannot be stored: it is too long or contains a NUL character."
_NO_CHARACTER = (
    "A string of the request contains half of a surrogate pair, which is not a valid character."
)


# What the API once had, and what took its place.
_REPLACED = (
    ("fine[-_]tunes?", "/v1/fine_tuning/jobs (client.fine_tuning.jobs in the openai package)"),
    (r"engines/.+/completions", "/v1/completions with the engine as 'model'"),
    (r"engines/.+/embeddings", "/v1/embeddings with the engine as 'model'"),
    (r"(engines/.+/)?search", "/v1/embeddings and compare the embeddings"),
    ("engines", "/v1/models"),
    ("edits|answers|classifications", "/v1/chat/completions"),
)


def replacement(path: str) -> str | None:
    """Return what replaced a route of an earlier version of the API; None for other paths."""
    for old, new in _REPLACED:
        if re.fullmatch(rf"/v1/({old})(/.*)?", path):
            return new
    return None


def _http_error(request: Request, error: HTTPException) -> ApiError:
    """Return the API's error for an error of the framework."""
    if error.status_code == 404:
        message = f"Invalid URL ({request.method} {request.url.path})"
        if (now := replacement(request.url.path)) is not None:
            message += f". This route was removed from the API; use {now} instead."
        return ApiError(404, message, code="unknown_url")
    if error.status_code == 405:
        message = f"The method {request.method} is not allowed for {request.url.path}."
        return ApiError(405, message, code="method_not_supported")
    code = HTTPStatus(error.status_code).name.lower()  # such as `bad_request`
    return ApiError(error.status_code, str(error.detail), code=code)


def add_handlers(app: FastAPI) -> None:
    """Register a handler for each kind of error with the application."""

    @app.exception_handler(ApiError)
    async def said(_: Request, error: ApiError) -> JSONResponse:
        """Answer with an error of the API."""
        return error.response

    @app.exception_handler(InferenceError)
    async def no_answer(_: Request, error: InferenceError) -> JSONResponse:
        """Answer with an error of the inference engine."""
        return inference_error(error).response

    @app.exception_handler(RequestValidationError)
    async def unusable(_: Request, error: RequestValidationError) -> JSONResponse:
        """Answer with the first error of the request's validation."""
        return validation_error(error.errors(), error.body).response

    @app.exception_handler(UserError)
    async def mistaken(_: Request, error: UserError) -> JSONResponse:
        """Answer with a user's error, such as a grader that cannot be used."""
        return refused(error).response

    @app.exception_handler(OSError)
    @app.exception_handler(DBAPIError)
    async def unwritten(request: Request, error: Exception) -> JSONResponse:
        """What is neither a full disk nor has a handler of its own is a mistake of ours."""
        if not is_full(error):
            raise error
        log.failed("disk full", error, method=request.method)
        return disk_full().response

    @app.exception_handler(DataError)
    async def no_value(_: Request, __: DataError) -> JSONResponse:
        """PostgreSQL takes no NUL in a text, and no text beyond its column's length."""
        return invalid(_NO_VALUE, None, "invalid_value").response

    @app.exception_handler(UnicodeEncodeError)
    async def no_character(_: Request, __: UnicodeEncodeError) -> JSONResponse:
        """JSON may write half of a surrogate pair, which neither a database nor a model reads."""
        return invalid(_NO_CHARACTER, None, "half_surrogate_pair").response

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        """Answer to an unknown URL, a method that is not allowed, or an error of the framework."""
        if is_full(error):  # a form's files, which the framework keeps on the disk meanwhile
            return await unwritten(request, error)
        result = _http_error(request, error)
        return JSONResponse(result.body, result.status, headers=error.headers)

    @app.exception_handler(Exception)
    async def ours(_: Request, __: Exception) -> JSONResponse:
        """Answer with status 500 to an error in the server's own code."""
        return failed().response
