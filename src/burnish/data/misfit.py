"""What keeps a raw row from its format, in a sentence with a remedy."""

from typing import Any


class MisfitError(Exception):
    """A row that does not fit its format; `code` names the mistake, whichever value shows it."""

    def __init__(self, reason: str, remedy: str, code: str = "") -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.remedy = remedy


def kind_of(value: Any) -> str:
    if value is None:
        return "nothing"
    kinds = {bool: "a true/false value", int: "a number", float: "a number", str: "text"}
    kinds |= {list: "a list", dict: "an object"}
    shown = repr(value)
    name = kinds.get(type(value), f"a {type(value).__name__}")
    return f"{name} ({shown if len(shown) <= 40 else shown[:39] + '…'})"
