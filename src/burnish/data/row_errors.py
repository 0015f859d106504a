"""What keeps a raw row from its format, in a sentence with a remedy."""

from typing import Any

from burnish.errors import shown


class RowFormatError(Exception):
    """A row that does not fit its format; `code` names the mistake, whichever value shows it.

    `fields` are the values that the sentence names: `field` is where in the row, `value` what stood
    there and `type` of which type it is.
    """

    def __init__(self, reason: str, remedy: str, *, code: str, **fields: Any) -> None:
        super().__init__(reason)
        self.code, self.fields = code, fields
        self.reason = reason
        self.remedy = remedy


def wrong_value(value: Any, field: str, remedy: str, *, code: str = "wrong_type") -> RowFormatError:
    """The error of a field that holds what it cannot."""
    kind = type(value).__name__
    reason = f"has {describe(value)} as {field}"
    return RowFormatError(reason, remedy, code=code, field=field, type=kind, value=shown(value))


def describe(value: Any) -> str:
    if value is None:
        return "nothing"
    kinds = {bool: "a true/false value", int: "a number", float: "a number", str: "text"}
    kinds |= {list: "a list", dict: "an object"}
    shown = repr(value)
    name = kinds.get(type(value), f"a {type(value).__name__}")
    return f"{name} ({shown if len(shown) <= 40 else shown[:39] + '…'})"
