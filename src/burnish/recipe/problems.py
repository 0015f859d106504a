"""Turns all problems of a recipe into one error; a problem is a key, a code and a sentence."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import ErrorDetails

from burnish.errors import RecipeError, cut, shown
from burnish.recipe.key_hints import meant_key

# Pydantic's names for one of several types that a value may have.
_TYPE = re.compile(r"(constrained-)?(int|float)|literal\[.*\]")
# The expected type in a word and in a sentence, without the names of Python types.
_KEYS = ("keys", "input should be keys with values, as in {key: value}")
_NUMBER = ("number", "input should be a number")
_WHOLE_NUMBER = ("whole number", "input should be a whole number")
_TRUTH = ("true or false", "input should be true or false")
_IN_YAML = {
    "model_type": _KEYS,
    "dict_type": _KEYS,
    "tuple_type": ("list", "input should be a list, as in [one, two]"),
    "path_type": ("path", "input should be a path"),
    "too_short": ("list", "it should have at least one item"),
    "string_type": ("text", "input should be text"),
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "int_type": _WHOLE_NUMBER,
    "int_parsing": _WHOLE_NUMBER,
    "int_from_float": _WHOLE_NUMBER,
    "bool_type": _TRUTH,
    "bool_parsing": _TRUTH,
}
# Codes by error type, of pydantic and of our validators; for any other type `wrong_type`.
_CODES = {
    "extra_forbidden": "unknown_key",
    "missing": "missing_key",
    "literal_error": "unknown_choice",
    "greater_than": "out_of_range",
    "greater_than_equal": "out_of_range",
    "less_than": "out_of_range",
    "less_than_equal": "out_of_range",
    "finite_number": "out_of_range",
    "too_short": "too_few_values",
    "too_long": "too_many_values",
    "string_pattern_mismatch": "bad_name",
    "name": "bad_name",
    "address": "not_a_path",
}
# The error type of a validator that reports several problems, in `problems` of its context.
SEVERAL = "several"
_LONGEST_NUMBER = 1e15
_LONGEST_TEXT = 200


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem; `message` is a sentence without a full stop, `fields` has the values in it."""

    key: str
    code: str
    message: str
    fields: dict[str, Any] = field(default_factory=dict)

    def to_row(self) -> dict[str, Any]:
        return {"key": self.key, "code": self.code, "message": self.message, **self.fields}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "Problem":
        values = dict(row)
        return cls(values.pop("key"), values.pop("code"), values.pop("message"), values)


def problems_of(errors: Iterable[ErrorDetails], known: Sequence[str]) -> list[Problem]:
    """Return one problem per key; pydantic reports one for each type that a value may have.

    Args:
        errors: the errors of a validation.
        known: the dotted keys that a recipe may have.
    """
    problems: dict[str, Problem] = {}
    for error in errors:
        loc = [str(part) for part in error["loc"] if not str(part).startswith("dict[")]
        key = ".".join(loc[:-1] if _TYPE.fullmatch(loc[-1]) else loc) if loc else ""
        if error["type"] == SEVERAL:
            problems |= {problem.key: problem for problem in error["ctx"]["problems"]}
        elif (first := problems.get(key)) is not None:
            message = f"{first.message}, or {_expected(error)}"
            problems[key] = Problem(key, first.code, message, first.fields)
        else:
            problems[key] = _problem(key, error, known)
    return list(problems.values())


def recipe_error(
    problems: Sequence[Problem], opening: str, remedy: str = "correct it"
) -> RecipeError:
    """Return one error with all problems in its field `problems`.

    A single problem also gives the error its code, and its key and values as fields.
    """
    seen = f"{opening}: " + "; ".join(dict.fromkeys(problem.message for problem in problems))
    rows = [problem.to_row() for problem in problems]
    if len(rows) > 1:
        return RecipeError(seen, remedy, code="recipe_problems", problems=rows)
    own = {name: value for name, value in rows[0].items() if name not in ("code", "message")}
    return RecipeError(seen, remedy, code=problems[0].code, **own, problems=rows)


def problems_in(error: RecipeError) -> list[Problem]:
    """Return the problems in an error; an error without the field `problems` is one problem."""
    rows = error.fields.get("problems")
    if rows is not None:
        return [Problem.from_row(row) for row in rows]
    fields = dict(error.fields)
    return [Problem(str(fields.pop("key", "")), error.code, error.seen, fields)]


def unknown_key(key: str, known: Sequence[str], seen: str = "unknown key ") -> Problem:
    """Return the problem of an unknown key, with the key that is most likely meant."""
    near = meant_key(key, known)
    hint = f" (did you mean {near}?)" if near else ""
    return Problem(cut(key), "unknown_key", f"{seen}{cut(key)}{hint}", {"closest": near})


def quotable(value: Any) -> Any:
    """Return a value for a field of an error: a short JSON value, or the value as text."""
    if isinstance(value, str) and len(value) <= _LONGEST_TEXT:
        return value
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float) and abs(value) < _LONGEST_NUMBER:
        return value
    return shown(value)


def _problem(key: str, error: ErrorDetails, known: Sequence[str]) -> Problem:
    code = _CODES.get(error["type"], "wrong_type")
    if code == "unknown_key":
        return unknown_key(key, known)
    if code == "missing_key":
        return Problem(key, code, f"{key} is missing")
    value = error["input"]
    fields = {"value": quotable(value)}
    if error["type"] in _IN_YAML:
        fields["expected"] = _IN_YAML[error["type"]][0]
    return Problem(key, code, f"{key} is {shown(value)}, but {_expected(error)}", fields)


def _expected(error: ErrorDetails) -> str:
    """Return the second half of the problem's sentence."""
    _, sentence = _IN_YAML.get(error["type"], ("", error["msg"]))
    return sentence[0].lower() + sentence[1:]
