"""Jobs as workers see them: a job is leased, kept while its worker lives, and ended once.

Whoever holds the lease may write about the job. A worker that was too slow to renew it finds
another's name there and writes nothing more, so nothing is done twice.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import Select, or_, select, update
from sqlalchemy.orm import Session

from burnish.serving.state import audit, jobs
from burnish.serving.state.blobs import BlobStore, ReceivedBlob
from burnish.serving.state.database import Database
from burnish.serving.state.events import Event, append, without_nul
from burnish.serving.state.files import CONTENT, audit_created
from burnish.serving.state.models import add_once
from burnish.serving.state.tables import FileRow, JobRow, ModelRow

# What a worker has to do about its job.
Order = Literal["go on", "pause", "cancel", "lost"]


class LeaseLostError(Exception):
    """The job is another worker's by now, or has ended."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A job that one worker holds for `seconds` after each heartbeat."""

    database: Database
    job: JobRow
    worker: str
    seconds: float

    def heartbeat(self, estimated_finish: int | None = None) -> Order:
        """Renew the lease, and return what a client requested meanwhile."""
        values: dict[str, Any] = {"leased_until": time.time() + self.seconds}
        if estimated_finish is not None:
            values["estimated_finish"] = estimated_finish
        with self.database.writing() as session:
            if not _renewed(session, self, values):
                return "lost"
            requested = session.scalar(
                select(JobRow.requested_state).where(JobRow.id == self.job.id)
            )
        return "pause" if requested == "pause" else "cancel" if requested == "cancel" else "go on"

    def report(
        self, events: Sequence[Event], models: Sequence[ModelRow] = (), **values: Any
    ) -> None:
        """Write new events and checkpoints, and columns of the job.

        Raises:
            LeaseLostError: nothing was written.
        """
        with self.database.writing() as session:
            job = self._held(session)
            append(session, job.id, events)
            started = values.get("status") == "running" != job.status
            for name, value in values.items():
                setattr(job, name, value)
            if started:
                audit.note(session, "job.start", job.id)
            for model in models:
                add_once(session, model)

    def release(self) -> None:
        """Give the job back unchanged, or paused if that was requested."""
        with self.database.writing() as session:
            if (job := self._locked(session)) is None:
                return
            if job.requested_state == "pause" and job.status in jobs.ACTIVE:
                jobs.set_paused(session, job)
            job.requested_state, job.worker, job.leased_until = "", None, None
            if job.status in ("paused", *jobs.ACTIVE):
                told = "job.paused" if job.status == "paused" else "job.give_back"
                audit.note(session, told, job.id)

    def fail(self, error: dict[str, Any]) -> None:
        """End the job with an error.

        Raises:
            LeaseLostError: nothing was written.
        """
        with self.database.writing() as session:
            job = self._held(session)
            error = error | {"message": without_nul(error["message"])}
            said = Event(error["message"], level="error", log_position="failed")
            self._end(session, job, "failed", [said])
            job.error = error
            audit.note(session, "job.fail", job.id, code=error["code"])

    def finish(self, content: BlobStore, result: "Result") -> None:
        """End the job with its model and files, in one transaction.

        Raises:
            LeaseLostError: nothing was written.
        """
        with self.database.writing(CONTENT) as session:
            job = self._held(session)
            for received, row in result.files:
                content.keep(received)
                row.project = job.project
                session.add(row)
            job.fine_tuned_model = result.model.name
            job.trained_tokens, job.resolved = result.trained_tokens, result.resolved
            job.result_files = [row.id for _, row in result.files]
            self._end(session, job, "succeeded", result.events)
            for _, row in result.files:
                audit_created(session, row)
            add_once(session, result.model)
            audit.note(session, "job.succeed", job.id, model=result.model.name)

    def _held(self, session: Session) -> JobRow:
        """The job, for writing about it, while it is still this worker's and has not ended."""
        job = self._locked(session)
        if job is None or job.status not in jobs.ACTIVE:
            raise LeaseLostError(self.job.id)
        return job

    def _locked(self, session: Session) -> JobRow | None:
        """The job while it is this worker's, which no other process changes meanwhile."""
        own = select(JobRow).where(JobRow.id == self.job.id, JobRow.worker == self.worker)
        return session.scalar(own.with_for_update())

    def _end(self, session: Session, job: JobRow, status: str, said: Sequence[Event]) -> None:
        append(session, job.id, said)
        job.status, job.finished_at = status, int(time.time())
        job.requested_state, job.worker, job.leased_until, job.estimated_finish = (
            "",
            None,
            None,
            None,
        )


@dataclass(frozen=True, slots=True)
class Result:
    """What a finished job leaves: the model, files that were received, and the last events."""

    model: ModelRow
    files: Sequence[tuple[ReceivedBlob, FileRow]]
    trained_tokens: int | None
    resolved: dict[str, Any]
    events: Sequence[Event] = field(default_factory=tuple)


def lease(database: Database, worker: str, seconds: float) -> Lease | None:
    """Lease a job that no worker holds, started and old jobs first; None if there is none.

    A job whose lease ended is taken over.
    """
    now = time.time()
    with database.reading() as session:  # workers that wait do not stop those that write
        if not any(session.scalar(_free(status, now)) for status in jobs.ACTIVE):
            return None
    with database.writing() as session:
        for status in jobs.ACTIVE:
            # On PostgreSQL others skip a row that is being taken; SQLite has one writer at a time.
            job = session.scalar(_free(status, now).with_for_update(skip_locked=True))
            before = job and job.worker
            if job is not None and _taken(session, job, worker, now + seconds):
                told = {"from": before} if before else {}
                audit.note(session, "job.take_over" if before else "job.take", job.id, **told)
                return Lease(database, job, worker, seconds)
    return None


def _free(status: str, now: float) -> Select[JobRow]:
    ended = or_(JobRow.leased_until.is_(None), JobRow.leased_until < now)
    query = select(JobRow).where(JobRow.status == status, ended)
    return query.order_by(JobRow.seq).limit(1)


def _taken(session: Session, job: JobRow, worker: str, until: float) -> bool:
    """Whether the job is still as it was read, and is this worker's from now on."""
    before = (
        JobRow.leased_until.is_(None)
        if job.leased_until is None
        else JobRow.leased_until == job.leased_until
    )
    done = session.execute(
        update(JobRow)
        .where(JobRow.seq == job.seq, JobRow.status == job.status, before)
        .values(worker=worker, leased_until=until)
        .returning(JobRow.seq)
    )
    return done.first() is not None


def _renewed(session: Session, held: Lease, values: dict[str, Any]) -> bool:
    done = session.execute(
        update(JobRow)
        .where(JobRow.id == held.job.id, JobRow.worker == held.worker)
        .values(**values)
        .returning(JobRow.seq)
    )
    return done.first() is not None
