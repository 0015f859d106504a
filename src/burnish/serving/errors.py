"""The API's errors: the status, and the body that the official client reads.

ApiError
├── not_found        404: no such file, job, model, checkpoint, route
├── invalid          400: a value that cannot be used, with the parameter's name
├── forbidden        403: the key has no such scope, or its project no such right
├── unauthorized     401: no key, or one that is not known
├── disk_full        507: there is no room to write
├── unanswered       what the engine raised: 400, 500, or 503 to try again
└── failed           500: our own mistake
"""

from collections.abc import Mapping
from typing import Any

from fastapi.responses import JSONResponse

from burnish.errors import UserError, cut, readable
from burnish.inference.errors import InferenceError, RequestError, UnavailableError

_LONGEST = 10_000  # characters of a message


class ApiError(Exception):
    """An answer that is an error: `{"error": {"message", "type", "param", "code"}}`.

    Programs decide by the code: the API's own where it has one, else a constant of ours.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        kind: str = "invalid_request_error",
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        # Names that a client sends come back to it, however long they are.
        self.status, self.message = status, readable(cut(message, _LONGEST))
        self.kind, self.param, self.code = kind, cut(param) if param else param, code
        super().__init__(self.message)
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}

    @property
    def response(self) -> JSONResponse:
        """The whole answer, for those that answer before any route."""
        return JSONResponse(self.body, self.status, headers=self.headers)


def inference_error(error: InferenceError) -> ApiError:
    """What the engine raised; the official client tries again where that may help."""
    if isinstance(error, RequestError):
        return invalid(error.message, error.param, error.code)
    again = isinstance(error, UnavailableError)
    status, headers = (503, {"retry-after": "1"}) if again else (500, {})
    return ApiError(status, error.message, kind="server_error", code=error.code, headers=headers)


def failed() -> ApiError:
    """A mistake of ours, of which only the log tells more."""
    message = "The server had an error while processing your request. Its log says which."
    return ApiError(500, message, kind="server_error", code="server_error")


def disk_full() -> ApiError:
    """Nothing can be written until somebody makes room."""
    message = (
        "The server's disk is full, so this could not be written. Delete files that are not "
        "needed any more, or make room on the disk."
    )
    return ApiError(507, message, kind="server_error", code="disk_full")


def invalid(message: str, param: str | None, code: str) -> ApiError:
    """A value that cannot be used; it has no `param` where it is not in one place."""
    return ApiError(400, message, param=param, code=code)


def conflicting(message: str, param: str) -> ApiError:
    """A parameter that means nothing without another one, or with it."""
    return invalid(message, param, "invalid_parameter_combination")


def refused(error: UserError, param: str | None = None) -> ApiError:
    """The user's own mistake, by its own code."""
    return invalid(f"{error}", param, error.code)


def not_found(what: str, name: str, param: str = "id") -> ApiError:
    """Such as `No such File object: file-123`."""
    return ApiError(404, f"No such {what}: {cut(name)}", param=param, code="not_found")


def model_not_found(name: str) -> ApiError:
    """As the API says it of a model that does not exist, or that the key may not use."""
    message = f"The model `{cut(name)}` does not exist or you do not have access to it."
    return ApiError(404, message, param="model", code="model_not_found")


def unauthorized(message: str, code: str = "invalid_api_key") -> ApiError:
    """No key, or one that is not known."""
    return ApiError(401, message, code=code)


def forbidden(message: str, code: str = "missing_scope") -> ApiError:
    """A key without the scope, or of a project without the right, that this needs."""
    return ApiError(403, message, kind="insufficient_permissions", code=code)
