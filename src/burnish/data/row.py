"""Defines raw rows, bad rows and the size limit of a row."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from burnish.errors import DataError, shown

MAX_ROW_BYTES = 1_000_000
SURROGATE = re.compile("[\ud800-\udfff]")
_INDEX = re.compile(r"\[\d+\]")


@dataclass(frozen=True, slots=True)
class Row:
    """One object of a file, unchanged. `source` is `file:line` (Parquet and Arrow: `file:row`)."""

    values: Mapping[str, Any]
    source: str


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used. `source reason` is a sentence, and `remedy` an instruction.

    `code` identifies the kind of mistake. `fields` contains the values in the reason, as JSON
    values.
    """

    source: str
    reason: str
    remedy: str
    code: str
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> tuple[str, ...]:
        """The code and the field of the mistake, equal for all rows with the same mistake."""
        names = (str(self.fields.get(name, "")) for name in ("field", "type", "format"))
        return (self.code, *(_INDEX.sub("[]", name) for name in names))


Notice = Callable[[str], None]
RowReader = Callable[[Path, Notice], Iterator[Row | BadRow]]


def too_long(source: str) -> BadRow:
    """A row of more than `MAX_ROW_BYTES` bytes."""
    reason = f"is longer than {MAX_ROW_BYTES:,} bytes"
    return BadRow(source, reason, "shorten the row, or split it into several", "row_too_long")


def not_utf8(source: str) -> BadRow:
    """A row whose bytes are not UTF-8."""
    return BadRow(source, "is not UTF-8", "save the file as UTF-8", "not_utf8")


def check_columns(names: Sequence[str], path: Path) -> None:
    """Raises DataError where two columns of a table have the same name."""
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(
            f"{path} has two columns named {shown(twice)}",
            "rename one of them",
            code="repeated_column",
            path=str(path),
            column=twice,
        )
