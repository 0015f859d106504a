"""The values that a hyperparameter search may try: the recipe's `sweep.space`."""

from collections.abc import Mapping, Sequence
from typing import Any

from burnish.errors import shown
from burnish.recipe.problems import Problem, quotable, unknown_key


def numbers(values: Any) -> Any:
    """The values of a key, with numbers read that YAML takes for words: 1e-4 has no point."""
    if not isinstance(values, list | tuple):
        return values
    return [_number(value) if isinstance(value, str) else value for value in values]


def _number(word: str) -> float | str:
    try:
        return float(word)
    except ValueError:
        return word


def space_problems(space: Mapping[str, Any], known: Sequence[str]) -> list[Problem]:
    """What is wrong with a search space, by its keys; `known` are the keys of a recipe."""
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
            seen = f"{where} may list numbers, words and true or false only"
            problems.append(Problem(where, "space_value_type", seen, fields))
        elif is_range(values) and values[0] >= values[1]:
            seen = f"{where} begins at {values[0]} and ends at {values[1]}"
            problems.append(Problem(where, "range_reversed", seen, fields))
    return problems


def is_range(values: Sequence[Any]) -> bool:
    """Whether the values of a search space are its two ends: two numbers are, a list is not."""
    return len(values) == 2 and all(type(value) in (int, float) for value in values)
