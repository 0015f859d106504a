"""What a search may vary: the recipe's `sweep.space`, or a default around the recipe's own values.

Two numbers are the ends of a range, whole numbers if both are whole, and on a logarithmic scale for
learning rates. Any other list is a choice.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from transformers import AutoConfig

from burnish.errors import RecipeError
from burnish.models.registry import resolve
from burnish.recipe.objectives import SETTINGS
from burnish.recipe.problems import Problem, problems_in, recipe_error
from burnish.recipe.schema import Recipe, changed_recipe, flat_values
from burnish.recipe.search_space import is_range
from burnish.training.schedule import automatic_rate

# Trials that differ in these keys have other rows or tokens, so their losses do not compare.
_FIXED = {
    "name", "model", "objective", "output", "seed", "device", "data", "evaluate", "budget", "sweep",
    "training.max_length", "training.evaluations", "training.early_stopping_patience",
    "training.checkpoints",
}  # fmt: skip


def search_space(recipe: Recipe) -> dict[str, list[Any]]:
    """Returns the recipe's space, or learning rate, rank and epochs around the recipe's values.

    Raises:
        RecipeError: lists every key that cannot be searched and every invalid value.
    """
    if not recipe.sweep.space:
        return _default_space(recipe)
    space = recipe.sweep.space
    problems: list[Problem] = []
    for key, values in space.items():
        section = key.partition(".")[0]
        unit = section in SETTINGS and not SETTINGS[section].validates_plainly
        if key in _FIXED or section in _FIXED or unit:
            seen = f"{key} cannot be searched, because its trials would not be comparable"
            problems.append(Problem(key, "not_searchable", seen))
            continue
        low, high = values[0], values[-1]
        for value in [low, low + (high - low) / 3, high] if _is_real(values) else values:
            try:
                changed_recipe(recipe, {key: value})
            except RecipeError as error:
                problems += problems_in(error)
    if problems:
        raise recipe_error(problems, "sweep.space", "correct the space")
    return dict(space)


def recipe_settings(recipe: Recipe, space: Mapping[str, Sequence[Any]]) -> dict[str, Any] | None:
    """Returns the recipe's values, which are tried first; None where one is not in the space."""
    values = dict(flat_values(recipe))
    own = {key: values[key] for key in space}
    rate = "training.learning_rate"
    if own.get(rate) in ("auto", "rule") and own[rate] not in space[rate]:
        own[rate] = _automatic(recipe)
    if not all(_holds(space[key], value) for key, value in own.items()):
        return None
    # 3.0 epochs are 3 in a space of whole numbers.
    return {
        key: space[key][space[key].index(value)]
        if value in space[key]
        else type(space[key][0])(value)
        for key, value in own.items()
    }


def _default_space(recipe: Recipe) -> dict[str, list[Any]]:
    rate, epochs = recipe.training.learning_rate, recipe.training.epochs
    middle = _automatic(recipe) if isinstance(rate, str) else rate
    space: dict[str, list[Any]] = {
        "training.learning_rate": [rounded(middle / 4), rounded(middle * 4)],
        "training.epochs": [epochs / 2, epochs, epochs * 1.5],
    }
    if recipe.method_traits.is_lora:
        space["lora.rank"] = sorted({8, 16, 32, recipe.lora.rank})
    return space


def _automatic(recipe: Recipe) -> float:
    config = AutoConfig.from_pretrained(str(resolve(recipe.model).path)).get_text_config()
    share = recipe.objective_settings.learning_rate_share
    return float(rounded(automatic_rate(recipe.method, int(config.hidden_size), share=share)))


def suggest(trial: optuna.Trial, key: str, values: Sequence[Any]) -> Any:
    """Returns the proposed value of one key, as a recipe value."""
    if not is_range(values):
        return trial.suggest_categorical(key, values)
    low, high = values
    if not _is_real(values):
        return trial.suggest_int(key, low, high)
    logarithmic = key.endswith("learning_rate")
    return rounded(trial.suggest_float(key, low, high, log=logarithmic))


def _holds(values: Sequence[Any], value: Any) -> bool:
    if not is_range(values):
        return value in values
    whole = _is_real(values) or isinstance(value, int) or float(value).is_integer()
    return isinstance(value, int | float) and whole and bool(values[0] <= value <= values[1])


def _is_real(values: Sequence[Any]) -> bool:
    """Whether the values are a range of real numbers, not only of whole numbers."""
    return is_range(values) and not all(type(value) is int for value in values)


def rounded(value: Any) -> Any:
    """Rounds a number to three significant digits, so that it is easy to type again."""
    return float(f"{value:.3g}") if isinstance(value, float) else value
