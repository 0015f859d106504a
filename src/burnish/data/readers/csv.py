"""Reads CSV and TSV files; delimiter, spaces and quoting are detected from the first rows."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from burnish.data.readers.encoding import lines, open_utf8
from burnish.data.row import MAX_ROW_BYTES, BadRow, Notice, Row, check_columns, not_utf8, too_long
from burnish.errors import DataError, quantity, shown

if TYPE_CHECKING:
    import _csv

_SAMPLE_BYTES, _SAMPLE_ROWS = 1 << 18, 100
_ALIKE = 0.9
_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_SEPARATOR = re.compile(r'"?sep=([,;\t|])"?\s*')  # Excel's own first line
_SPACE_AND_QUOTE = re.compile(r"\s+\"")


@dataclass(frozen=True, slots=True)
class _Layout:
    """The dialect of a table. `share` of its first rows have as many fields as the header."""

    delimiter: str = ","
    skips_spaces: bool = False
    quoted: bool = True
    skipped_lines: int = 0
    share: float = 0.0
    width: int = 0

    def reader(self, text: Iterator[str]) -> "_csv.Reader":
        """A reader of lines in this dialect."""
        return csv.reader(
            text,
            strict=True,
            delimiter=self.delimiter,
            skipinitialspace=self.skips_spaces,
            quoting=csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE,
        )


def csv_rows(path: Path, notice: Notice) -> Iterator[Row | BadRow]:
    """The rows of a `.csv` file.

    Raises:
        DataError: the header cannot be used.
    """
    layout = _layout(path, tuple(_NAMES))
    if layout.delimiter != ",":
        notice(f"the columns of {path} are separated by {_NAMES[layout.delimiter]}")
    return _rows(path, layout, notice)


def is_table(path: Path, delimiter: str) -> bool:
    """Whether the first lines of a file form a table with this delimiter."""
    layout = _layout(path, (delimiter,))
    return layout.delimiter == delimiter and layout.width > 1 and layout.share >= _ALIKE


def tsv_rows(path: Path, notice: Notice) -> Iterator[Row | BadRow]:
    """The rows of a `.tsv` file; quotes that do not enclose fields are text."""
    return _rows(path, _layout(path, ("\t",)), notice)


def _rows(path: Path, layout: _Layout, notice: Notice) -> Iterator[Row | BadRow]:
    # The limit is set for the process: the default of 131,072 is less than MAX_ROW_BYTES.
    csv.field_size_limit(MAX_ROW_BYTES)
    with open_utf8(path, notice) as file:
        counted = _CountedLines(file)
        for _ in range(layout.skipped_lines):
            next(counted)
        reader = layout.reader(counted)
        try:
            header = _Header.of(next(filter(_width, reader), []), path, layout.delimiter)
        except csv.Error as error:
            raise DataError(
                f"the header of {path} cannot be read ({error})",
                "correct line 1",
                code="broken_header",
                path=str(path),
                reason=str(error),
            ) from error
        if counted.broken:
            raise DataError(
                f"the header of {path} is not UTF-8",
                "save the file as UTF-8",
                code="not_utf8",
                path=str(path),
            )
        while True:
            source = f"{path}:{reader.line_num + 1 + layout.skipped_lines}"
            counted.size, counted.broken = 0, False
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                remedy = "close quoted fields, and double the quotes inside of them"
                broken = BadRow(
                    source,
                    f"is not valid CSV ({error})",
                    remedy,
                    "broken_csv",
                    {"reason": str(error)},
                )
                yield too_long(source) if counted.size > MAX_ROW_BYTES else broken
                continue
            if counted.size > MAX_ROW_BYTES:
                yield too_long(source)
            elif counted.broken:
                yield not_utf8(source)
            elif _width(fields):
                yield header.row(fields, source)


class _CountedLines:
    """Decoded lines of a file; `size` counts their bytes, to detect rows that are too long.

    `broken` is true if a line is not UTF-8.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._lines = lines(file)
        self.size = 0
        self.broken = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.size += len(line.rstrip(b"\r\n"))
        try:
            return line.decode()
        except UnicodeDecodeError:
            self.broken = True
            return line.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class _Header:
    """The column names; unnamed columns are empty, and left out at the end of the line."""

    names: Sequence[str]
    delimiter: str
    complete: bool

    @classmethod
    def of(cls, cells: Sequence[str], path: Path, delimiter: str) -> "_Header":
        names = [cell.strip() for cell in cells]
        check_columns([*filter(None, names)], path)
        if len(names) == 1 and re.search(r"[;|\t]", names[0]):
            seen = f"the header of {path} has only one column, {shown(names[0])}"
            raise DataError(
                seen,
                "save the file with commas between the columns",
                code="one_column",
                path=str(path),
                column=names[0],
            )
        while names and not names[-1]:
            names.pop()
        return cls(names, delimiter, all(names) and len(names) == len(cells))

    def row(self, fields: list[str], source: str) -> Row | BadRow:
        """The row by column names; the value of an unnamed column is called by its number."""
        if self.complete and len(fields) == len(self.names):
            return Row(dict(zip(self.names, fields, strict=True)), source)
        width, filled = len(self.names), len(fields)
        while filled > width and not fields[filled - 1].strip():
            filled -= 1
        if len(fields) < width or (self.complete and filled > width):
            reason = f"has {quantity(len(fields), 'field')}, but the header has {width}"
            remedy = f"put double quotes around fields that contain {_NAMES[self.delimiter]}"
            if len(fields) < width:
                remedy = "complete the row, or delete it"
            elif width == 1:
                remedy += ", or delete line 1 if it is not the header"
            counts = {"count": len(fields), "expected": width}
            return BadRow(source, reason, remedy, "wrong_field_count", counts)
        values = {}
        for index, field in enumerate(fields[:filled]):
            name = self.names[index] if index < width else ""
            if name or field.strip():
                values[name or f"column {index + 1}"] = field
        return Row(values, source)


def _layout(path: Path, delimiters: Sequence[str]) -> _Layout:
    """Detects the dialect in which most of the first rows have as many fields as the header."""
    with open_utf8(path) as file:
        sample = file.read(_SAMPLE_BYTES)
    if len(sample) == _SAMPLE_BYTES:
        sample = sample[: sample.rfind(b"\n") + 1] or sample
    text = sample.decode("utf-8-sig", "replace")
    skipped = 0
    if named := _SEPARATOR.match(text.partition("\n")[0] + "\n"):
        delimiters, skipped = (named[1],), 1
        text = text.partition("\n")[2]
    found = [_fitted(_Layout(d, skipped_lines=skipped), text) for d in delimiters]
    several = [layout for layout in found if layout.width > 1 and layout.share >= 0.5]
    best = max(several, key=lambda layout: layout.share, default=found[0])
    spaced = _fitted(replace(best, skips_spaces=True), text)
    if spaced.share >= best.share and _has_spaces(best, text):
        best = spaced
    if best.delimiter == "\t" and best.share < 1:
        bare = _fitted(replace(best, quoted=False), text)
        best = bare if bare.share > best.share else best
    return best


def _fitted(layout: _Layout, text: str) -> _Layout:
    records = _records(layout, text)
    if not records:
        return replace(layout, share=0.0, width=0)
    width, rows = _width(records[0]), records[1:]
    alike = sum(1 for row in rows if _width(row) <= width <= len(row))
    return replace(layout, share=alike / len(rows) if rows else 1.0, width=width)


def _records(layout: _Layout, text: str) -> list[list[str]]:
    """The first records; an invalid one ends the list with an empty record."""
    records: list[list[str]] = []
    try:
        records += islice(
            filter(_width, layout.reader(io.StringIO(text, newline=""))), _SAMPLE_ROWS
        )
    except csv.Error:
        records.append([])
    return records


def _width(fields: Sequence[str]) -> int:
    return max((at for at, field in enumerate(fields, 1) if field.strip()), default=0)


def _has_spaces(layout: _Layout, text: str) -> bool:
    """Whether a space follows each delimiter, as in `text, label`."""
    records = _records(layout, text)
    header = records[0][1:] if records else []
    if header and all(cell[:1] == " " for cell in header):
        return True
    return any(_SPACE_AND_QUOTE.match(field) for row in records for field in row)
