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
        """The JSON body of the error."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}

    @property
    def response(self) -> JSONResponse:
        """The complete HTTP response."""
        return JSONResponse(self.body, self.status, headers=self.headers)


def inference_error(error: InferenceError) -> ApiError:
    """Return the API's error for an error of the inference engine; the official client retries a
    503."""
    if isinstance(error, RequestError):
        return invalid(error.message, error.param, error.code)
    again = isinstance(error, UnavailableError)
    status, headers = (503, {"retry-after": "1"}) if again else (500, {})
    return ApiError(status, error.message, kind="server_error", code=error.code, headers=headers)


def failed() -> ApiError:
    """Return the error for a fault in the server's own code; only the log has details."""
    message = (
        "The server had an error while processing your request. See the server's log for details."
    )
    return ApiError(500, message, kind="server_error", code="server_error")


def disk_full() -> ApiError:
    """Return the error for a full disk."""
    message = (
        "The server's disk is full, so the request could not be stored. Delete files that are "
        "no longer needed, or free space on the disk."
    )
    return ApiError(507, message, kind="server_error", code="disk_full")


def invalid(message: str, param: str | None, code: str) -> ApiError:
    """Return the error for an invalid value; `param` is None if no single parameter is at fault."""
    return ApiError(400, message, param=param, code=code)


def conflicting(message: str, param: str) -> ApiError:
    """Return the error for a parameter that cannot be combined with the others."""
    return invalid(message, param, "invalid_parameter_combination")


def refused(error: UserError, param: str | None = None) -> ApiError:
    """Return the API's error for a user's error, with the same code."""
    return invalid(f"{error}", param, error.code)


def not_found(what: str, name: str, param: str = "id") -> ApiError:
    """Return a 404 error, such as `No such File object: file-123`."""
    return ApiError(404, f"No such {what}: {cut(name)}", param=param, code="not_found")


def model_not_found(name: str) -> ApiError:
    """Return the API's error for a model that does not exist or that the key may not use."""
    message = f"The model `{cut(name)}` does not exist or you do not have access to it."
    return ApiError(404, message, param="model", code="model_not_found")


def unauthorized(message: str, code: str = "invalid_api_key") -> ApiError:
    """Return the error for a missing or unknown API key."""
    return ApiError(401, message, code=code)


def forbidden(message: str, code: str = "missing_scope") -> ApiError:
    """Return the error for a key without the required scope, or of a project without the right."""
    return ApiError(403, message, kind="insufficient_permissions", code=code)
