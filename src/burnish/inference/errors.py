"""Why there is no answer: the engine knows no HTTP, and the server maps each kind to a status.

InferenceError
├── RequestError       what is asked cannot be answered
├── UnavailableError   nothing is wrong with it, and a later try may be answered
└── BackendError       the model server failed, or refused what it should have taken
"""


class InferenceError(Exception):
    """One sentence for whoever asked.

    Args:
        message: the sentence.
        code: the kind of mistake, a constant in snake_case.
        param: the parameter of the request that is at fault, where one is.
    """

    def __init__(self, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message, self.code, self.param = message, code, param


class RequestError(InferenceError):
    """What is asked cannot be answered."""


class UnavailableError(InferenceError):
    """Nothing is wrong with what is asked, and a later try may be answered."""


class BackendError(InferenceError):
    """The model server failed, or refused what it should have taken."""


def shutting_down() -> UnavailableError:
    """There is no answer any more, from this process at least."""
    return UnavailableError("The server is shutting down.", "shutting_down")


def overloaded() -> UnavailableError:
    """As many answers wait as there is room for."""
    said = "The engine is currently overloaded, please try again later."
    return UnavailableError(said, "overloaded")
