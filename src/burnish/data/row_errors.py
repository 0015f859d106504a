"""Errors of a single row, as a sentence with a remedy."""

from typing import Any

from burnish.errors import shown


class RowFormatError(Exception):
    """A row that does not fit its format; `code` identifies the kind of mistake.

    `fields` contains the values in the sentence: `field` is the place in the row, `value` the value
    there and `type` its type.
    """

    def __init__(self, reason: str, remedy: str, *, code: str, **fields: Any) -> None:
        super().__init__(reason)
        self.code, self.fields = code, fields
        self.reason = reason
        self.remedy = remedy


def wrong_value(value: Any, field: str, remedy: str, *, code: str = "wrong_type") -> RowFormatError:
    """Returns the error for a field with a value of the wrong type or content."""
    kind = type(value).__name__
    reason = f"has {describe(value)} as {field}"
    return RowFormatError(reason, remedy, code=code, field=field, type=kind, value=shown(value))


def describe(value: Any) -> str:
    """The type of a value in words, with the value itself."""
    if value is None:
        return "null"
    kinds = {bool: "a true/false value", int: "a number", float: "a number", str: "text"}
    kinds |= {list: "a list", dict: "an object"}
    shown = repr(value)
    name = kinds.get(type(value), f"a {type(value).__name__}")
    return f"{name} ({shown if len(shown) <= 40 else shown[:39] + '…'})"
