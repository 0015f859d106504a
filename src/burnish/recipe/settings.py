"""A recipe's value as the command line writes it: text for a key that holds text, else YAML."""

from collections.abc import Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel

from burnish.recipe.files import parse_yaml

_NULL = ("null", "~", "")


def read_setting(section: type[BaseModel], key: str, text: str) -> Any:
    """What `key=text` sets. A key that holds text takes it unchanged: `a: b`, `yes`, `1e3`, `[a]`.

    Quotes around all of it are YAML's, and `null` is nothing where the key may be nothing.
    """
    kinds = _kinds(section, key.split("."))
    if kinds and NoneType in kinds and text.strip() in _NULL:
        return None
    if kinds and kinds <= {str, Path, NoneType} and text.strip()[:1] not in ("'", '"'):
        return text
    try:
        return parse_yaml(text)
    except yaml.YAMLError:  # the recipe says what the value should be
        return text


def _kinds(annotation: Any, names: Sequence[str]) -> set[Any]:
    """The types that the value at `names` may have; empty where the recipe has no such key."""
    if not names:
        return _members(annotation)
    found: set[Any] = set()
    for kind in _members(annotation):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(names[0])
            found |= _kinds(field.annotation, names[1:]) if field else set()
        elif get_origin(kind) is dict:
            found |= _kinds(get_args(kind)[1], names[1:])
    return found


def _members(annotation: Any) -> set[Any]:
    """A union's types, each literal as its value's type."""
    if get_origin(annotation) is Literal:
        return {type(value) for value in get_args(annotation)}
    if get_origin(annotation) in (dict, tuple, list) or isinstance(annotation, type):
        return {annotation}
    return set().union(*(_members(part) for part in get_args(annotation)))
