"""Records which fields of a row are read, so that unused columns can be reported."""

from collections.abc import Iterator, Mapping
from typing import Any


class TrackedRow(Mapping[str, Any]):
    """A row, or an object in it, that marks a field as used when it is read.

    `in` and `peek` do not mark a field.

    Args:
        values: the object, by the field names of its format.
        columns: maps a field of the format to the user's column, if the two differ.
        within: the row or object that contains this one, and the path to it.
    """

    __slots__ = ("_columns", "_path", "_seen", "_used", "_values")

    def __init__(
        self,
        values: Mapping[str, Any],
        columns: Mapping[str, str] | None = None,
        within: "tuple[TrackedRow, str] | None" = None,
    ) -> None:
        self._values = values
        self._columns = columns or {}
        self._path = within[1] if within else ""
        self._used: set[str] = within[0]._used if within else set()
        self._seen: set[str] = within[0]._seen if within else set()
        self._seen.update(self.column(field) for field, v in values.items() if not is_empty(v))

    def __getitem__(self, field: str) -> Any:
        value = self._values[field]
        self._used.add(self.column(field))
        return value

    def get(self, field: str, default: Any = None) -> Any:
        return self[field] if field in self._values else default

    def __contains__(self, field: object) -> bool:
        return field in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def column(self, field: str) -> str:
        """The user's column name for a field; inside a turn, the path to the field."""
        return f"{self._path}{self._columns.get(field, field)}"

    def peek(self, field: str) -> Any:
        """The value of a field, or None, without marking it as used."""
        return self._values.get(field)

    def pass_over(self, field: str, part: str) -> None:
        """Records that a part of the field's value is not used."""
        self._seen.add(f"{self.column(field)}{part}")

    def part(self, value: Mapping[str, Any], field: str) -> "TrackedRow":
        """An object inside the field, such as a turn; its fields are tracked in this row, too."""
        return TrackedRow(value, within=(self, f"{self.column(field)}."))

    def renamed(self, values: Mapping[str, Any], columns: Mapping[str, str]) -> "TrackedRow":
        """The same row with other fields, built from `columns`, which are marked as used."""
        self._used.update(map(self.column, columns.values()))
        view = TrackedRow({}, {**self._columns, **columns})
        view._values, view._used, view._seen = values, self._used, self._seen
        return view

    def unused(self, row: Mapping[str, Any]) -> set[str]:
        """Columns of the row, and fields of its turns, with a value that was not read."""
        held = {name for name, value in row.items() if not is_empty(value)}
        return (held | self._seen) - self._used


def is_empty(value: Any) -> bool:
    """Whether a value is null, empty text, an empty list or an empty object."""
    return value is None or (isinstance(value, str | list | dict) and not value)
