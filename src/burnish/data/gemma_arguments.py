"""Reads the arguments of Gemma 4's calls: `{name:<|"|>text<|"|>,list:[1,true,null]}`."""

import re
from typing import Any

_QUOTE = '<|"|>'
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_WORDS = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}
_DEEPEST = 100


def read_braces(text: str, start: int) -> tuple[dict[str, Any], int] | None:
    """The object that begins at `start` and the index behind it; None if it is none, or is cut."""
    try:
        value, end = _value(text, start, 0)
    except (ValueError, IndexError):
        return None
    return (value, end) if isinstance(value, dict) else None


def _value(text: str, at: int, depth: int) -> tuple[Any, int]:
    if depth > _DEEPEST:
        raise ValueError(depth)
    if text.startswith(_QUOTE, at):
        return _quoted(text, at)
    if text[at] == "{":
        return _object(text, at, depth)
    if text[at] == "[":
        return _list(text, at, depth)
    for word, value in _WORDS.items():
        if text.startswith(word, at):
            return value, at + len(word)
    if number := _NUMBER.match(text, at):
        whole = re.fullmatch(r"-?\d+", number[0])
        return (int(number[0]) if whole else float(number[0])), number.end()
    raise ValueError(at)


def _quoted(text: str, at: int) -> tuple[str, int]:
    end = text.index(_QUOTE, at + len(_QUOTE))
    return text[at + len(_QUOTE) : end], end + len(_QUOTE)


def _object(text: str, at: int, depth: int) -> tuple[dict[str, Any], int]:
    found: dict[str, Any] = {}
    at += 1
    while text[at] != "}":
        if text.startswith(_QUOTE, at):
            key, at = _quoted(text, at)
        else:
            end = text.index(":", at)
            key, at = text[at:end], end
        if text[at] != ":":
            raise ValueError(at)
        found[key], at = _value(text, at + 1, depth + 1)
        at = _next(text, at, "}")
    return found, at + 1


def _list(text: str, at: int, depth: int) -> tuple[list[Any], int]:
    found: list[Any] = []
    at += 1
    while text[at] != "]":
        value, at = _value(text, at, depth + 1)
        found.append(value)
        at = _next(text, at, "]")
    return found, at + 1


def _next(text: str, at: int, closing: str) -> int:
    """Behind the comma, or at the closing bracket."""
    if text[at] == closing:
        return at
    if text[at] != ",":
        raise ValueError(at)
    return at + 1
