"""All keys of a recipe, each with its default and its meaning."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from burnish.recipe.schema import Recipe

# Stands for a name that the user chooses.
_NAMED = "NAME"


@dataclass(frozen=True, slots=True)
class RecipeKey:
    """A dotted key; `default` is a JSON value, and None if the key is `required`."""

    key: str
    default: Any
    required: bool
    meaning: str


def recipe_keys(section: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[RecipeKey]:
    """Return the keys in the order of the classes; those of a task are `tasks.NAME.KEY`."""
    for name, field in section.model_fields.items():
        key, kind = prefix + name, field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from recipe_keys(kind, f"{key}.")
            continue
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        yield RecipeKey(key, to_jsonable_python(default), field.is_required(), _meaning(field))
        inner = get_args(kind)[1] if get_origin(kind) is dict else None
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from recipe_keys(inner, f"{key}.{_NAMED}.")


def _meaning(field: FieldInfo) -> str:
    """Return the description and the choices."""
    words = [str(word) for word in field.examples or _choices(field.annotation)]
    description = field.description or ""
    return f"{description} ({', '.join(words)})" if words else description


def _choices(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return []
