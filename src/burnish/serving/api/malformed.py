"""What is wrong with a request's values, by the API's codes and with the place as it names it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from burnish.serving.api.errors import ApiError, invalid

_NO_JSON = "We could not parse the JSON body of your request. The API expects a JSON payload."
_NO_OBJECT = (
    "The body of the request must be a JSON object, sent with the header "
    "'Content-Type: application/json'."
)
_CODES = {
    "missing": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    "string_too_long": "string_above_max_length",
    "string_too_short": "string_below_min_length",
    "too_long": "array_above_max_length",
    "too_short": "array_below_min_length",
    "greater_than": "below_min_value",
    "greater_than_equal": "below_min_value",
    "less_than": "above_max_value",
    "less_than_equal": "above_max_value",
}


def malformed(errors: Sequence[Mapping[str, Any]], body: Any) -> ApiError:
    """The first error of a request's validation; `body` is what was sent.

    Where a value may be of several types, the ones that it is not of are told last.
    """
    first = next((error for error in errors if not _is_type(error["type"])), errors[0])
    kind, place = str(first["type"]), list(first["loc"])
    if kind == "json_invalid" or place == ["body"]:
        return invalid(_NO_JSON if kind == "json_invalid" else _NO_OBJECT)
    sent = body if place[0] == "body" else None
    param = _param(place[1:], sent, missing=kind == "missing")
    return invalid(_sentence(kind, param, first), param, _code(kind, first))


def _code(kind: str, error: Mapping[str, Any]) -> str:
    code = _CODES.get(kind)
    if code and code.endswith("_value"):  # a query or a form has its whole numbers as texts
        return f"{'decimal' if isinstance(error['input'], float) else 'integer'}_{code}"
    if code == "array_below_min_length" and not error["input"]:
        return "empty_array"
    if code:
        return code
    return "invalid_type" if _is_type(kind) else "invalid_value"


def _is_type(kind: str) -> bool:
    return kind.endswith(("_type", "_parsing"))


def _sentence(kind: str, param: str, error: Mapping[str, Any]) -> str:
    if kind == "missing":
        return f"Missing required parameter: '{param}'."
    if kind == "extra_forbidden":
        return f"Unknown parameter: '{param}'."
    said = f"{error['msg']}".removeprefix("Value error, ")
    if kind == "literal_error":
        seen = json.dumps(error["input"], default=str, ensure_ascii=False)[:40]
        return f"Invalid value for '{param}': {seen}. Supported are {error['ctx']['expected']}."
    if said.startswith("Expected UploadFile"):  # the framework's word for it
        said = "it is a text, and must be a file with a file name"
    code = _code(kind, error)
    if code.endswith("_value") and code != "invalid_value":
        said = f"{said}, and is {str(error['input'])[:40]}"
    return f"Invalid {'type for ' if code == 'invalid_type' else ''}'{param}': {said}."


def _param(place: Sequence[str | int], body: Any, *, missing: bool) -> str:
    """Such as `messages[0].content`: the steps that the body has, and the one that is missing.

    Other steps are names of the types that were tried.
    """
    steps: list[str | int] = []
    for step in place:
        if isinstance(body, Mapping):
            is_there = step in body or (missing and step is place[-1])
        elif isinstance(body, list):
            is_there = isinstance(step, int)
        else:
            is_there = not steps
        if is_there:
            steps.append(step)
            body = _inside(body, step)
    words = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps]
    return "".join(words).removeprefix(".")


def _inside(body: Any, step: str | int) -> Any:
    try:
        return body[step]
    except (KeyError, IndexError, TypeError):
        return None
