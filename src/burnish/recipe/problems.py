"""What is wrong with a recipe, all of it at once: each problem is a key, a code and a sentence."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import ErrorDetails

from burnish.errors import RecipeError, cut, shown
from burnish.recipe.key_hints import meant_key

# How pydantic names one of several types that a value may have.
_TYPE = re.compile(r"(constrained-)?(int|float)|literal\[.*\]")
# Whoever writes a recipe knows no Python types: what is expected, in a word and in a sentence.
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
# Types of pydantic's, and of our validators, that are no matter of the value's own type.
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
# Pydantic's type of a problem whose context has `problems`, one a key that it speaks of.
SEVERAL = "several"
_LONGEST_NUMBER = 1e15
_LONGEST_TEXT = 200


@dataclass(frozen=True, slots=True)
class Problem:
    """One of them; `message` is a sentence without its end, `fields` has the values it names."""

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
    """What pydantic saw, one a key, though a value of several types has a problem with each.

    Args:
        errors: of a validation.
        known: the dotted keys that a recipe may have.
    """
    found: dict[str, Problem] = {}
    for error in errors:
        loc = [str(part) for part in error["loc"] if not str(part).startswith("dict[")]
        key = ".".join(loc[:-1] if _TYPE.fullmatch(loc[-1]) else loc) if loc else ""
        if error["type"] == SEVERAL:
            found |= {problem.key: problem for problem in error["ctx"]["problems"]}
        elif (first := found.get(key)) is not None:
            message = f"{first.message}, or {_expected(error)}"
            found[key] = Problem(key, first.code, message, first.fields)
        else:
            found[key] = _problem(key, error, known)
    return list(found.values())


def recipe_error(
    problems: Sequence[Problem], opening: str, remedy: str = "correct it"
) -> RecipeError:
    """The error that has them all in its field `problems`.

    Its code is that of the problem where there is one, whose key and values are fields, too.
    """
    seen = f"{opening}: " + "; ".join(dict.fromkeys(problem.message for problem in problems))
    rows = [problem.to_row() for problem in problems]
    if len(rows) > 1:
        return RecipeError(seen, remedy, code="recipe_problems", problems=rows)
    own = {name: value for name, value in rows[0].items() if name not in ("code", "message")}
    return RecipeError(seen, remedy, code=problems[0].code, **own, problems=rows)


def problems_in(error: RecipeError) -> list[Problem]:
    """The problems of an error; it is its only one where it speaks of a single mistake."""
    rows = error.fields.get("problems")
    if rows is not None:
        return [Problem.from_row(row) for row in rows]
    fields = dict(error.fields)
    return [Problem(str(fields.pop("key", "")), error.code, error.seen, fields)]


def unknown_key(key: str, known: Sequence[str], seen: str = "unknown key ") -> Problem:
    """That there is no such key, with the one that is likely meant."""
    near = meant_key(key, known)
    hint = f" (did you mean {near}?)" if near else ""
    return Problem(cut(key), "unknown_key", f"{seen}{cut(key)}{hint}", {"closest": near})


def quotable(value: Any) -> Any:
    """A value as a field of an error has it: JSON can hold it, and it is short."""
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
    """The second half of its sentence."""
    _, sentence = _IN_YAML.get(error["type"], ("", error["msg"]))
    return sentence[0].lower() + sentence[1:]
