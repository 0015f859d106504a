"""Lists in pages: a page begins after the row with a given id, however many rows there are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, TypeVarTuple

from sqlalchemy import ColumnElement, Row, Select, select, union_all
from sqlalchemy.orm import Session

from burnish.serving.errors import invalid
from burnish.serving.state.tables import DeletedRow, FileRow, PermissionRow

Entry = TypeVar("Entry")
Columns = TypeVarTuple("Columns")


@dataclass(frozen=True, slots=True)
class Page(Generic[Entry]):
    """Some rows in order, and whether there are more after them."""

    rows: Sequence[Entry]
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
    asked: Select[Entry],
    cursor: Cursor,
    key: str = "id",
    along: Any = None,
) -> Page[Entry]:
    """The page of `asked`, a query on `table` without order, that the cursor points to.

    Rows are told apart by `seq`, so a page is one walk along an index. `key` names the column that
    `cursor.after` is compared with; `along` is a column of another table that equals `seq`, where
    the walk is along an index of that one.

    Raises:
        ApiError: there is no such row to begin after, and never was.
    """
    walk = _walk(session, table, asked, cursor, key, along)
    return _cut(session.scalars(walk).all(), cursor)


def page_of_columns(
    session: Session, table: Any, asked: Select[*Columns], cursor: Cursor
) -> Page[Row[*Columns]]:
    """The same of a query for single columns, which a long page is made of much faster."""
    # Past the session, which would look at each row once more for objects in it.
    rows = session.connection().execute(_walk(session, table, asked, cursor))
    return _cut(rows.all(), cursor)


def delete(session: Session, row: FileRow | PermissionRow) -> None:
    """Deletes a row and keeps its place: who deletes what a page shows asks for the next one."""
    session.add(DeletedRow(id=row.id, table=row.__tablename__, seq=row.seq))
    session.delete(row)


def _walk(
    session: Session,
    table: Any,
    asked: Select[*Columns],
    cursor: Cursor,
    key: str = "id",
    along: Any = None,
) -> Select[*Columns]:
    """One row more than the page has, which says whether another page follows."""
    column: ColumnElement[int] = table.seq if along is None else along
    if cursor.after is not None:
        place = session.scalar(
            union_all(
                select(table.seq).where(getattr(table, key) == cursor.after),
                select(DeletedRow.seq).where(
                    DeletedRow.id == cursor.after, DeletedRow.table == table.__tablename__
                ),
            )
        )
        if place is None:
            message = f"Invalid cursor: the item {cursor.after!r} does not exist."
            raise invalid(message, "after", "invalid_cursor")
        asked = asked.where(column > place if cursor.ascending else column < place)
    ordered = asked.order_by(column.asc() if cursor.ascending else column.desc())
    return ordered.limit(cursor.limit + 1)


def _cut(rows: Sequence[Entry], cursor: Cursor) -> Page[Entry]:
    return Page(rows[: cursor.limit], len(rows) > cursor.limit)
