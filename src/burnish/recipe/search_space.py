"""The search space of hyperparameters: the recipe's `sweep.space`."""

from collections.abc import Mapping, Sequence
from typing import Any

from burnish.errors import shown
from burnish.recipe.problems import Problem, quotable, unknown_key


def numbers(values: Any) -> Any:
    """Return the values of a key, converting numbers that YAML reads as text, such as 1e-4."""
    if not isinstance(values, list | tuple):
        return values
    return [_number(value) if isinstance(value, str) else value for value in values]


def _number(word: str) -> float | str:
    try:
        return float(word)
    except ValueError:
        return word


def space_problems(space: Mapping[str, Any], known: Sequence[str]) -> list[Problem]:
    """Return the problems of a search space; `known` are the keys of a recipe."""
    leaves = [key for key in known if not any(other.startswith(f"{key}.") for other in known)]
    problems = []
    for key, values in space.items():
        where, fields = f"sweep.space.{key}", {"value": quotable(values)}
        if key not in leaves:
            problems.append(unknown_key(key, leaves, "sweep.space names the unknown key "))
        elif not isinstance(values, list) or len(values) < 2:
            seen = f"{where} is {shown(values)}, but it should be [low, high] or a list of values"
            problems.append(Problem(where, "space_not_list", seen, fields))
        elif not all(isinstance(value, bool | int | float | str) for value in values):
            seen = f"{where} may only contain numbers, text, true and false"
            problems.append(Problem(where, "space_value_type", seen, fields))
        elif is_range(values) and values[0] >= values[1]:
            seen = f"{where} starts at {values[0]}, which is not below its end {values[1]}"
            problems.append(Problem(where, "range_reversed", seen, fields))
    return problems


def is_range(values: Sequence[Any]) -> bool:
    """Whether the values of a key are the ends of a range: two numbers are, other lists are not."""
    return len(values) == 2 and all(type(value) in (int, float) for value in values)
