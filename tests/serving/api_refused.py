"""How tests expect an error of the API: by status, code, parameter and the values quoted."""

import re
from collections.abc import Mapping
from typing import Any
from unittest.mock import ANY

import openai
import pytest

from burnish.inference.errors import InferenceError
from burnish.serving.errors import ApiError, inference_error


def api_refused(
    code: str, /, *values: object, status: int = 400, param: str | None = ANY
) -> pytest.RaisesExc[Any]:
    """A context in which the server, or the client of one, raises an error of that code.

    Args:
        code: the error's.
        values: that its message quotes, as whole words.
        status: the error's.
        param: the parameter that it names; any where it is left out.
    """

    def fits(error: ApiError | InferenceError | openai.APIStatusError) -> bool:
        if isinstance(error, InferenceError):
            error = inference_error(error)
        seen = error.status if isinstance(error, ApiError) else error.status_code
        return (seen, error.code, error.param) == (status, code, param) and quotes(error, *values)

    return pytest.raises((ApiError, InferenceError, openai.APIStatusError), check=fits)


def quotes(error: object, *values: object) -> bool:
    """Whether the message of an API error, or of its body, has the values as whole words."""
    body = getattr(error, "body", error)
    body = body.get("error", body) if isinstance(body, Mapping) else body
    message = body["message"] if isinstance(body, Mapping) else str(error)
    words = [re.escape(str(value)) for value in values]
    return all(re.search(rf"(?<!\w){word}(?!\w)", message) for word in words)
