"""Fine-tuning jobs as clients see them: made, listed, cancelled, paused, resumed.

    validating_files -> queued -> running -> succeeded | failed
    any of the first three -> cancelled, or -> paused -> queued

What a worker does with them is in `leases`.
"""

import time
from collections.abc import Mapping

from sqlalchemy import Select, exists, func, select
from sqlalchemy.orm import Session, aliased

from burnish.serving.errors import ApiError, invalid, not_found
from burnish.serving.state import audit
from burnish.serving.state.database import Database, visible
from burnish.serving.state.events import Event, append
from burnish.serving.state.paging import Cursor, Page, page
from burnish.serving.state.tables import JobRow, MetaRow

# Of these a worker may take one; the first are those that it goes on with first.
ACTIVE = ("running", "queued", "validating_files")
# Keys are counted no further than this to find the rarest.
_COUNTED = 1000


def submit(database: Database, job: JobRow, said: tuple[Event, ...] = ()) -> JobRow:
    """Write a new job with its first events; a worker then takes it."""
    with database.writing() as session:
        session.add(job)
        session.flush()
        for key, value in (job.meta or {}).items():
            session.add(MetaRow(key=key, value=value, job_seq=job.seq))
        created = Event(f"Created fine-tuning job: {job.id}", log_position="created")
        files = Event(f"Validating training file: {job.training_file}", log_position="validating")
        append(session, job.id, (created, files, *said))
        told = {"model": job.model, "file": job.training_file, "method": job.method["type"]}
        audit.note(session, "job.create", job.id, **told)
    return job


def retrieve(database: Database, name: str) -> JobRow:
    """Return a job.

    Raises:
        ApiError: 404, there is no such job.
    """
    with database.reading() as session:
        return _found(session, name)


def listed(
    database: Database,
    cursor: Cursor,
    meta: Mapping[str, str] | None = None,
    *,
    without_metadata: bool = False,
) -> Page[JobRow]:
    """Return a page of jobs, the newest first.

    Args:
        database: whose project restricts the list.
        cursor: where the page starts and how long it is.
        meta: only jobs that have all of these metadata values.
        without_metadata: only jobs that have no metadata.
    """
    with database.reading() as session:
        own = visible(session, JobRow)
        if meta:
            query = _with_meta(session, meta).where(own)
            return page(session, JobRow, query, cursor, along=MetaRow.job_seq)
        plainly = [JobRow.meta.is_(None)] if without_metadata else []
        return page(session, JobRow, select(JobRow).where(own, *plainly), cursor)


def by_status(database: Database) -> dict[str, int]:
    """Return the number of jobs per status."""
    query = select(JobRow.status, func.count()).group_by(JobRow.status)
    with database.reading() as session:
        return dict(session.execute(query).all())


def cancel(database: Database, name: str) -> JobRow:
    """Cancel a job; its worker stops at its next heartbeat.

    Raises:
        ApiError: there is no such job, or it has ended.
    """
    with database.writing() as session:
        job = _locked(session, name)
        if job.status not in (*ACTIVE, "paused"):
            raise _wrong_state(job, "cancel")
        job.requested_state = "cancel" if job.worker else ""
        job.status, job.finished_at = "cancelled", int(time.time())
        job.estimated_finish = None
        append(
            session, name, [Event(f"Fine-tuning job cancelled: {name}", log_position="cancelled")]
        )
        audit.note(session, "job.cancel", name)
    return job


def pause(database: Database, name: str) -> JobRow:
    """Pause a job until it is resumed; a running job first writes a checkpoint.

    Raises:
        ApiError: there is no such job, or it has ended.
    """
    with database.writing() as session:
        job = _locked(session, name)
        if job.status not in (*ACTIVE, "paused"):
            raise _wrong_state(job, "pause")
        if job.status == "paused" or job.requested_state == "pause":
            return job
        if job.worker:
            job.requested_state = "pause"
        else:
            set_paused(session, job)
        audit.note(session, "job.pause", name)
    return job


def resume(database: Database, name: str) -> JobRow:
    """Let a paused job continue, or withdraw a pause that has not started.

    Raises:
        ApiError: there is no such job, or it is neither paused nor about to be.
    """
    with database.writing() as session:
        job = _locked(session, name)
        if job.status != "paused" and job.requested_state != "pause":
            raise _wrong_state(job, "resume")
        job.requested_state = ""
        if job.status == "paused":
            job.status = "queued"
            append(session, name, [Event("Fine-tuning job resumed")])
        audit.note(session, "job.resume", name)
    return job


def set_paused(session: Session, job: JobRow) -> None:
    """Mark the job as paused, with an event."""
    job.status, job.requested_state, job.estimated_finish = "paused", "", None
    append(session, job.id, [Event("Fine-tuning job paused")])


def _found(session: Session, name: str) -> JobRow:
    job = session.scalar(select(JobRow).where(JobRow.id == name, visible(session, JobRow)))
    if job is None:
        raise not_found("fine-tuning job", name, "fine_tuning_job_id")
    return job


def _locked(session: Session, name: str) -> JobRow:
    """The job, which no other process changes before this transaction ends."""
    own = visible(session, JobRow)
    job = session.scalar(select(JobRow).where(JobRow.id == name, own).with_for_update())
    return job or _found(session, name)


def _wrong_state(job: JobRow, verb: str) -> ApiError:
    message = f"Cannot {verb} the job {job.id}: its status is {job.status}."
    return invalid(message, "fine_tuning_job_id", "invalid_state")


def _with_meta(session: Session, meta: Mapping[str, str]) -> Select[JobRow]:
    """Walks along the jobs of the rarest key, and looks each up under the others."""
    first, *others = sorted(meta.items(), key=lambda item: _count(session, *item))
    query = select(JobRow).join(MetaRow, MetaRow.job_seq == JobRow.seq)
    query = query.where(MetaRow.key == first[0], MetaRow.value == first[1])
    for key, value in others:
        other = aliased(MetaRow)
        same = (other.key == key, other.value == value, other.job_seq == MetaRow.job_seq)
        query = query.where(exists().where(*same))
    return query


def _count(session: Session, key: str, value: str) -> int:
    some = select(MetaRow.job_seq).where(MetaRow.key == key, MetaRow.value == value)
    return session.scalar(select(func.count()).select_from(some.limit(_COUNTED).subquery())) or 0
