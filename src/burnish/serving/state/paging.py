"""Lists in pages: a page begins after the row with a given id, however many rows there are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Select, select
from sqlalchemy.orm import Session

from burnish.serving.api.errors import invalid
from burnish.serving.state.tables import Table

Row = TypeVar("Row", bound=Table)


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """Some rows in order, and whether there are more after them."""

    rows: Sequence[Row]
    has_more: bool


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page begins and how long it is: after the row `after`, or at the list's start."""

    limit: int
    after: str | None = None
    ascending: bool = False


def page(
    session: Session,
    table: Any,
    asked: Select[Row],
    cursor: Cursor,
    key: str = "id",
    along: Any = None,
) -> Page[Row]:
    """The page of `asked`, a query on `table` without order, that the cursor points to.

    Rows are told apart by `seq`, so a page is one walk along an index. `key` names the column that
    `cursor.after` is compared with; `along` is a column of another table that equals `seq`, where
    the walk is along an index of that one.

    Raises:
        ApiError: there is no such row to begin after.
    """
    column: ColumnElement[int] = table.seq if along is None else along
    if cursor.after is not None:
        place = session.scalar(select(table.seq).where(getattr(table, key) == cursor.after))
        if place is None:
            raise invalid(f"Invalid cursor: there is no {cursor.after!r} to list after.", "after")
        asked = asked.where(column > place if cursor.ascending else column < place)
    ordered = asked.order_by(column.asc() if cursor.ascending else column.desc())
    rows = session.scalars(ordered.limit(cursor.limit + 1)).all()
    return Page(rows[: cursor.limit], len(rows) > cursor.limit)
