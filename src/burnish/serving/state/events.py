"""Events of jobs: written once each, listed newest first."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert as insert_postgresql
from sqlalchemy.dialects.sqlite import insert as insert_sqlite
from sqlalchemy.orm import Session

from burnish.serving.state.database import Database
from burnish.serving.state.ids import new_id
from burnish.serving.state.paging import Cursor, Page, page
from burnish.serving.state.tables import EventRow

Level = Literal["info", "warn", "error"]


@dataclass(frozen=True, slots=True)
class Event:
    """What happened to a job.

    `log_position` says where in the run the event comes from, such as `train 12`. A job has at most
    one event for each position, however often a worker restarts it. None marks an event that can
    happen repeatedly.
    """

    message: str
    level: Level = "info"
    type: Literal["message", "metrics"] = "message"
    data: dict[str, Any] | None = None
    log_position: str | None = None
    time: float | None = None


def append(session: Session, job_id: str, events: Iterable[Event]) -> None:
    """Write the events whose position was not written before."""
    values = [_values(job_id, event) for event in events]
    if not values:
        return
    if session.get_bind().dialect.name == "sqlite":
        session.execute(insert_sqlite(EventRow).on_conflict_do_nothing(), values)
    else:
        session.execute(insert_postgresql(EventRow).on_conflict_do_nothing(), values)


def without_nul(text: str) -> str:
    """Replace NUL characters, which PostgreSQL does not store."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def listed(database: Database, job_id: str, cursor: Cursor) -> Page[EventRow]:
    """Return a page of a job's events."""
    query = select(EventRow).where(EventRow.job_id == job_id)
    with database.reading() as session:
        return page(session, EventRow, query, cursor)


def _values(job_id: str, event: Event) -> dict[str, Any]:
    return {
        "id": new_id("ftevent-"),
        "job_id": job_id,
        "created_at": int(event.time or time.time()),
        "level": event.level,
        "message": without_nul(event.message),
        "type": event.type,
        "data": event.data,
        "log_position": event.log_position,
    }
