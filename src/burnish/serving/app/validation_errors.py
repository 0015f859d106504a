"""Validation errors of requests, with the codes and parameter names of the API."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from burnish.serving.errors import ApiError, invalid

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

_EXPECTED = {
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), "an object"),
    **dict.fromkeys(("list_type", "tuple_type"), "an array"),
    "string_type": "a string",
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "an integer"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    "none_required": "null",
}
# In this order, since Python's truth values are numbers.
_TYPES: dict[Any, str] = {
    dict: "an object",
    list: "an array",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    type(None): "null",
}
_LENGTHS = {
    "too_short": ("at least", "item"),
    "too_long": ("at most", "item"),
    "string_too_short": ("at least", "character"),
    "string_too_long": ("at most", "character"),
}


def validation_error(errors: Sequence[Mapping[str, Any]], body: Any) -> ApiError:
    """Return the first validation error of a request; `body` is the body that the client sent.

    Where a value may be of several types, the ones that it is not of are told last, and of those
    the ones that lie deepest: a list that holds a wrong item is a list after all.
    """
    first = next((error for error in errors if not _is_type(error["type"])), None)
    if first is None:
        params = [_param_of(error, body) for error in errors]
        place = max(params, key=len)
        deepest = [one for one, param in zip(errors, params, strict=True) if param == place]
        first, kinds = deepest[0], [str(error["type"]) for error in deepest]
    else:
        kinds = [str(first["type"])]
    kind = kinds[0]
    if kind == "json_invalid":
        return invalid(_NO_JSON, None, "not_json")
    if list(first["loc"]) == ["body"]:
        return invalid(_NO_OBJECT, None, "not_an_object")
    param = _param_of(first, body)
    return invalid(_sentence(kinds, param, first), param, _code(kind, first))


def _param_of(error: Mapping[str, Any], body: Any) -> str:
    place = list(error["loc"])
    sent = body if place[0] == "body" else None
    return _param(place[1:], sent, missing=error["type"] == "missing")


def _code(kind: str, error: Mapping[str, Any]) -> str:
    code = _CODES.get(kind)
    if code and code.endswith("_value"):  # a query or a form has its whole numbers as texts
        return f"{'decimal' if isinstance(error['input'], float) else 'integer'}_{code}"
    if code == "array_below_min_length" and not error["input"]:
        return "empty_array"
    if code:
        return code
    return "invalid_type" if _is_type(kind) or _wants_file(error) else "invalid_value"


def _wants_file(error: Mapping[str, Any]) -> bool:
    """Whether a text came where a file belongs; the framework tells it from others by words."""
    return error["type"] == "value_error" and "Expected UploadFile" in error["msg"]


def _is_type(kind: str) -> bool:
    return kind.endswith(("_type", "_parsing"))


def _sentence(kinds: Sequence[str], param: str, error: Mapping[str, Any]) -> str:
    """What is wrong, the value seen and what is expected; `kinds` are several of a union."""
    kind, value, limits = kinds[0], error["input"], error.get("ctx") or {}
    message = f"{error['msg']}".removeprefix("Value error, ")  # as pydantic begins
    if kind == "missing":
        return f"Missing required parameter: '{param}'."
    if kind == "extra_forbidden":
        return f"Unknown parameter: '{param}'."
    if kind == "literal_error":
        known = limits["expected"]
        return f"Invalid value for '{param}': {_shown(value)}. Supported values are {known}."
    if kind == "union_tag_invalid":
        name, tag, known = (limits[key] for key in ("discriminator", "tag", "expected_tags"))
        return f"Invalid '{param}': its {name} is '{tag}'. Supported values are {known}."
    if kind == "union_tag_not_found":
        return f"Invalid '{param}': it has no {limits['discriminator']}."
    if _wants_file(error):
        return f"Invalid '{param}': got a string, but expected a file with a file name."
    if expected := dict.fromkeys(_EXPECTED[one] for one in kinds if one in _EXPECTED):
        return (
            f"Invalid type for '{param}': expected {' or '.join(expected)}, but got "
            f"{_type_of(value)} instead."
        )
    if kind in _LENGTHS and limits:
        side, unit = _LENGTHS[kind]
        least = limits["min_length" if side == "at least" else "max_length"]
        units = unit if least == 1 else f"{unit}s"
        return f"Invalid '{param}': expected {side} {least} {units}, but got {_length(value)}."
    if kind == "string_pattern_mismatch":
        pattern = limits["pattern"]
        return f"Invalid '{param}': {_shown(value)} does not match the pattern '{pattern}'."
    message = message.replace("Input should be", "it must be")
    code = _code(kind, error)
    if code.endswith("_value") and code != "invalid_value":
        message = f"{message}, but got {str(value)[:40]}"
    return f"Invalid {'type for ' if code == 'invalid_type' else ''}'{param}': {message}."


def _shown(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)[:40]


def _length(value: Any) -> str:
    return str(len(value)) if isinstance(value, str | list | dict) else "a different length"


def _type_of(value: Any) -> str:
    """A short text is shown, since a query and a form have nothing else."""
    if isinstance(value, str):
        return f"the string {_shown(value)}"
    return next((name for kind, name in _TYPES.items() if isinstance(value, kind)), "a file")


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
