"""Why there is no answer: the engine knows no HTTP, and the server maps each kind to a status.

InferenceError
├── RequestError       what is asked cannot be answered
├── UnavailableError   nothing is wrong with it, and a later try may be answered
└── BackendError       the model server failed, or refused what it should have taken
"""


class InferenceError(Exception):
    """Why a request has no answer, as one sentence for the client.

    Args:
        message: the sentence.
        code: the kind of mistake, a constant in snake_case.
        param: the parameter of the request that is at fault, where one is.
    """

    def __init__(self, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message, self.code, self.param = message, code, param


class RequestError(InferenceError):
    """The request cannot be answered; the client must change it."""


class UnavailableError(InferenceError):
    """The request is valid and may be answered later."""


class BackendError(InferenceError):
    """The model server failed, or rejected a valid request."""


def shutting_down() -> UnavailableError:
    """Return the error for requests during shutdown."""
    return UnavailableError("The server is shutting down.", "shutting_down")


def overloaded() -> UnavailableError:
    """Return the error for requests beyond the queue's length."""
    message = "The engine is currently overloaded. Please try again later."
    return UnavailableError(message, "overloaded")
