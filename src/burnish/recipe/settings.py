"""Reads a value from `--set key=text`: plain text for a key with text, YAML for any other."""

from collections.abc import Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel

from burnish.recipe.files import parse_yaml

_NULL = ("null", "~", "")


def read_setting(section: type[BaseModel], key: str, text: str) -> Any:
    """Return the value of `key=text`; for a key with text it is unchanged: `a: b`, `yes`, `1e3`.

    Quotes around the whole text are YAML's, and `null` is None if the key may be None.
    """
    kinds = _kinds(section, key.split("."))
    if kinds and NoneType in kinds and text.strip() in _NULL:
        return None
    if kinds and kinds <= {str, Path, NoneType} and text.strip()[:1] not in ("'", '"'):
        return text
    try:
        return parse_yaml(text)
    except yaml.YAMLError:  # the validation of the recipe reports the expected type
        return text


def _kinds(annotation: Any, names: Sequence[str]) -> set[Any]:
    """Return the types that the value at `names` may have; empty if there is no such key."""
    if not names:
        return _members(annotation)
    kinds: set[Any] = set()
    for kind in _members(annotation):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(names[0])
            kinds |= _kinds(field.annotation, names[1:]) if field else set()
        elif get_origin(kind) is dict:
            kinds |= _kinds(get_args(kind)[1], names[1:])
    return kinds


def _members(annotation: Any) -> set[Any]:
    """Return the types in a union; a literal counts as the type of its value."""
    if get_origin(annotation) is Literal:
        return {type(value) for value in get_args(annotation)}
    if get_origin(annotation) in (dict, tuple, list) or isinstance(annotation, type):
        return {annotation}
    return set().union(*(_members(part) for part in get_args(annotation)))
