"""The audit log: a line for each change of state, each sealed with the hash of the one before.

A changed, moved or missing line breaks the chain. Lines cut off at the end leave no trace in what
is left: keep the `head` elsewhere from time to time and verify against it.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Row, select, text, update
from sqlalchemy.orm import Session

from burnish.serving.state.tables import AuditRow

START = "0" * 64  # what stands in the first line for the hash before it

_LOCK = 0x6275726E  # of PostgreSQL, for all writers of the log
_ROWS_AT_ONCE = 1000
_Line = Row[tuple[int, float, str, str, str, dict[str, Any], str, str]]


def note(session: Session, action: str, subject: str, **data: Any) -> None:
    """Append a line in the name of the session's actor; see `Database.as_actor`."""
    append(session, session.info["actor"], action, subject, data)


def append(
    session: Session, actor: str, action: str, subject: str, data: Mapping[str, Any] | None = None
) -> None:
    """Add a line within the caller's transaction, so that the change and its line are committed or
    rolled back together.

    Until that transaction ends, other writers of the log wait: append last, and commit.

    Args:
        session: its transaction.
        actor: who did it: a key's id, `local`, `cli`, or a worker by its name.
        action: what was done, such as `job.create`.
        subject: the id of what was changed.
        data: further values, as JSON; no secrets and no texts of users.
    """
    _queue_up(session)
    last = session.execute(select(AuditRow.hash).order_by(AuditRow.seq.desc()).limit(1)).scalar()
    previous = last or START
    # As the database gives it back: keys are texts, a tuple is a list.
    kept = json.loads(json.dumps(dict(data or {}), allow_nan=False))
    now = time.time()
    sealed = _seal(previous, [now, actor, action, subject, kept])
    session.add(AuditRow(now, actor, action, subject, kept, previous, sealed))
    session.flush()


def verify(session: Session, head: str | None = None) -> int | None:
    """Return the number of the first line that was altered or is missing; None if the log is
    intact.

    With the `head` of an earlier time, lines cut off since then are found too: the number is then
    the one after the last line that is left.
    """
    previous, seq, visible = START, 0, head in (None, START)
    for line in _lines(session):
        sealed = _seal(previous, [line.time, line.actor, line.action, line.subject, line.data])
        if line.previous != previous or line.hash != sealed:
            return int(line.seq)
        previous, seq = sealed, int(line.seq)
        visible = visible or previous == head
    return None if visible else seq + 1


def head(session: Session) -> str:
    """Return the hash of the last line, which covers all lines before it."""
    last = select(AuditRow.hash).order_by(AuditRow.seq.desc()).limit(1)
    return session.execute(last).scalar() or START


def export(session: Session) -> Iterator[str]:
    """Yield all lines as JSON Lines, one at a time."""
    for line in _lines(session):
        yield json.dumps(line._asdict(), ensure_ascii=False) + "\n"


def _queue_up(session: Session) -> None:
    """Lets one writer in at a time, before the last line is read.

    SQLite has one writer anyhow, once a transaction has written: this one writes nothing, early.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    else:
        session.execute(update(AuditRow).where(AuditRow.seq == -1).values(actor="")).close()


def _seal(previous: str, line: list[Any]) -> str:
    written = json.dumps([previous, *line], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(written.encode()).hexdigest()


def _lines(session: Session) -> Iterator[_Line]:
    """Columns and no objects: a session keeps objects in memory."""
    columns = (
        AuditRow.seq,
        AuditRow.time,
        AuditRow.actor,
        AuditRow.action,
        AuditRow.subject,
        AuditRow.data,
        AuditRow.previous,
        AuditRow.hash,
    )
    yield from session.execute(
        select(*columns).order_by(AuditRow.seq), execution_options={"yield_per": _ROWS_AT_ONCE}
    )
