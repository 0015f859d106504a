"""Collects the rows that cannot be used and reports each kind of mistake once."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from burnish.data.row import BadRow, Row
from burnish.errors import DataError, cut, quantity, readable, shown
from burnish.runs.directory import Finding

_KINDS = 20
_LINES = 3
_WHERE = 20
_REASON = 500
_TABLES = {".csv", ".tsv"}
_LONG_NAME = 60


@dataclass
class _Mistake:
    """One mistake in the rows of one file: the first such row, and the lines of the next ones."""

    first: BadRow
    lines: list[str] = field(default_factory=list)
    count: int = 1

    def sentence(self) -> str:
        """The mistake as a sentence with its remedy and the lines of further rows."""
        message = f"{self.first.source} {_reason(self.first)} ({self.first.remedy})"
        more = self.count - 1
        if not more:
            return message
        lines = ", ".join(self.lines) + (", …" if more > len(self.lines) else "")
        return f"{message}; {more} more on line{'s' * (more > 1)} {lines}"

    @property
    def fields(self) -> dict[str, Any]:
        """The mistake as values for programs; `more_lines` lists the next few of `count` rows."""
        path, _, line = self.first.source.rpartition(":")
        return {
            "path": path,
            "line": line,
            "reason": _reason(self.first),
            "remedy": self.first.remedy,
            "code": self.first.code,
            "fields": dict(self.first.fields),
            "count": self.count,
            "more_lines": self.lines,
        }


def _reason(bad: BadRow) -> str:
    return cut(readable(bad.reason), _REASON)


@dataclass
class BadRows:
    """The mistakes in the rows read so far. `total` counts the good rows, too."""

    total: int = 0
    count: int = 0
    where: list[str] = field(default_factory=list)
    _kinds: dict[tuple[str, ...], _Mistake] = field(default_factory=dict)
    _like_header: set[str] = field(default_factory=set)

    def add(self, bad: BadRow, row: Row | BadRow) -> None:
        """Counts a bad row; `row` is the raw row that it was read from."""
        self.count += 1
        if len(self.where) < _WHERE:
            self.where.append(bad.source)
        file, _, line = bad.source.rpartition(":")
        kind = self._kinds.get((file, *bad.kind))
        if kind is None:
            self._kinds[file, *bad.kind] = _Mistake(bad)
        else:
            kind.count += 1
            if len(kind.lines) < _LINES:
                kind.lines.append(line)
        if bad.code == "unknown_format" and isinstance(row, Row) and _repeats(row):
            self._like_header.add(file)

    def findings(self) -> list[Finding]:
        """A warning about the bad rows, for a run that continues without them."""
        if not self.count:
            return []
        first = next(iter(self._kinds.values())).first
        of = f"of {quantity(self.total, 'row')} cannot be used and"
        message = (
            quantity(self.count, f"{of} was", f"{of} were")
            + f" left out; the first is {first.source}, which {_reason(first)}"
        )
        return [Finding("bad", "warning", message, self.count, tuple(self.where))]

    def refuse(self, columns: Iterable[str]) -> None:
        """Raises an error that lists the bad rows, if there are any.

        Args:
            columns: the column names of all rows.

        Raises:
            DataError: at least one row cannot be used.
        """
        if not self.count:
            return
        kinds = list(self._kinds.values())
        if len(kinds) == 1 and self.count == self.total and kinds[0].first.code == "unknown_format":
            self._refuse_header(kinds[0].first, list(columns))
        listed = "".join(f"\n  {kind.sentence()}" for kind in kinds[:_KINDS])
        rest = sum(kind.count for kind in kinds[_KINDS:])
        more = f"\n  and {rest} more" if rest else ""
        rows = quantity(self.total, "row")
        raise DataError(
            f"{self.count} of {rows} cannot be used:{listed}{more}\nTo continue",
            "correct these rows, or leave them out with --drop-bad",
            code="bad_rows",
            count=self.count,
            total=self.total,
            rows=[kind.fields for kind in kinds[:_KINDS]],
        )

    def _refuse_header(self, first: BadRow, columns: list[str]) -> None:
        """Explains that no column name is known, which often means that the header is missing."""
        file = first.source.rpartition(":")[0]
        suffixes = {suffix.lower() for suffix in Path(file).suffixes[-2:]}
        if not suffixes & _TABLES or not columns:
            return
        names = ", ".join(map(shown, columns[:5]))
        above = "add a line with the column names above it, such as text,label"
        if file in self._like_header or any(map(_is_value, columns)):
            seen = f"the first line of {file} looks like a row, not like a header ({names})"
            raise DataError(seen, above, code="no_header", path=file, columns=columns[:5])
        raise DataError(
            f"no column of {file} has a name that Burnish recognises (header: {names})",
            f"{first.remedy}; if the first line is a row, {above}",
            code="unknown_columns",
            path=file,
            columns=columns[:5],
        )


def _repeats(row: Row) -> bool:
    """Whether a value of the row also occurs in the header, as labels do if the header is a row."""
    return any(value == name for name, value in row.values.items())


def _is_value(name: str) -> bool:
    bare = name.removeprefix("-").replace(".", "", 1)
    return bare.isdecimal() or len(name) > _LONG_NAME
