"""Every error leaves in the API's shape, also those of the framework and of Burnish."""

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

_NO_VALUE = "A value of the request cannot be stored: it is too long, or holds a NUL character."
_NO_CHARACTER = "A text of the request holds half of a surrogate pair, which is no character."


# What the API once had, and what took its place.
_REPLACED = (
    ("fine[-_]tunes?", "/v1/fine_tuning/jobs (client.fine_tuning.jobs in the openai package)"),
    (r"engines/.+/completions", "/v1/completions, with the engine as 'model'"),
    (r"engines/.+/embeddings", "/v1/embeddings, with the engine as 'model'"),
    (r"(engines/.+/)?search", "/v1/embeddings, and compare the embeddings"),
    ("engines", "/v1/models"),
    ("edits|answers|classifications", "/v1/chat/completions"),
)


def replacement(path: str) -> str | None:
    """What a route that the API has no more was replaced by; None of a path that was never one."""
    for old, new in _REPLACED:
        if re.fullmatch(rf"/v1/({old})(/.*)?", path):
            return new
    return None


def add_handlers(app: FastAPI) -> None:
    """Gives the application its answers to errors."""

    @app.exception_handler(ApiError)
    async def said(_: Request, error: ApiError) -> JSONResponse:
        return error.response

    @app.exception_handler(InferenceError)
    async def no_answer(_: Request, error: InferenceError) -> JSONResponse:
        return inference_error(error).response

    @app.exception_handler(RequestValidationError)
    async def unusable(_: Request, error: RequestValidationError) -> JSONResponse:
        return validation_error(error.errors(), error.body).response

    @app.exception_handler(UserError)
    async def mistaken(_: Request, error: UserError) -> JSONResponse:
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
        if is_full(error):  # a form's files, which the framework keeps on the disk meanwhile
            return await unwritten(request, error)
        if error.status_code == 404:
            message = f"Invalid URL ({request.method} {request.url.path})"
            if (now := replacement(request.url.path)) is not None:
                message += f". The API had it before; use {now} instead."
            found = ApiError(404, message, code="unknown_url")
        elif error.status_code == 405:
            message = f"Not allowed to {request.method} on {request.url.path}."
            found = ApiError(405, message, code="method_not_supported")
        else:
            code = HTTPStatus(error.status_code).name.lower()  # such as `bad_request`
            found = ApiError(error.status_code, str(error.detail), code=code)
        return JSONResponse(found.body, found.status, headers=error.headers)

    @app.exception_handler(Exception)
    async def ours(_: Request, __: Exception) -> JSONResponse:
        return failed().response
