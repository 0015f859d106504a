"""The tables. Times are Unix seconds; `seq` orders what was made, also within a second."""

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column

# SQLite counts only INTEGER keys up by itself.
_Seq = BigInteger().with_variant(Integer, "sqlite")
_Unlabelled = text("meta IS NULL")


class Table(MappedAsDataclass, DeclarativeBase):
    """All tables."""


class FileRow(Table):
    """An uploaded file, or a result; its bytes lie under their sha256.

    `project` is that of the key which brought it, or of the result's job.
    """

    __tablename__ = "files"

    seq: Mapped[int] = mapped_column(_Seq, primary_key=True, init=False)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    purpose: Mapped[str] = mapped_column(String(32))
    filename: Mapped[str] = mapped_column(Text)
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    created_at: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[int | None] = mapped_column(BigInteger, default=None, index=True)
    project: Mapped[str | None] = mapped_column(String(64), default=None)

    __table_args__ = (
        Index("ix_files_purpose_seq", "purpose", "seq"),
        Index("ix_files_project_seq", "project", "seq"),
    )


class UploadRow(Table):
    """A file that arrives in parts. `status`: pending, completed, cancelled or expired.

    `lasts` is how many seconds the file is kept once it is whole; None is for good.
    """

    __tablename__ = "uploads"

    seq: Mapped[int] = mapped_column(_Seq, primary_key=True, init=False)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    purpose: Mapped[str] = mapped_column(String(32))
    filename: Mapped[str] = mapped_column(Text)
    mime_type: Mapped[str] = mapped_column(String(255))
    bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[str] = mapped_column(String(16), default="pending")
    lasts: Mapped[int | None] = mapped_column(default=None)
    file_id: Mapped[str | None] = mapped_column(String(64), default=None)
    project: Mapped[str | None] = mapped_column(String(64), default=None)


class PartRow(Table):
    """A part of an upload."""

    __tablename__ = "upload_parts"

    seq: Mapped[int] = mapped_column(_Seq, primary_key=True, init=False)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id"), index=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    created_at: Mapped[int] = mapped_column(BigInteger)


class JobRow(Table):
    """A fine-tuning job.

    `status` is the API's status, or `paused`. `requested_state` is what a client requested of a job
    that a worker holds: "", "pause" or "cancel". A cancelled job has its status at once, and keeps
    the request until its worker has let go. The worker renews `leased_until`; after that moment any
    other worker may continue from the run's last checkpoint. `method` is the API's object with
    every `auto` in it, `resolved` the hyperparameters that were used. `project` is the project of
    the key that created the job.
    """

    __tablename__ = "jobs"

    seq: Mapped[int] = mapped_column(_Seq, primary_key=True, init=False)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    model: Mapped[str] = mapped_column(String(255))
    status: Mapped[str] = mapped_column(String(32))
    training_file: Mapped[str] = mapped_column(String(64))
    method: Mapped[dict[str, Any]] = mapped_column(JSON)
    seed: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[int] = mapped_column(BigInteger)
    validation_file: Mapped[str | None] = mapped_column(String(64), default=None)
    suffix: Mapped[str | None] = mapped_column(String(64), default=None)
    project: Mapped[str | None] = mapped_column(String(64), default=None)
    meta: Mapped[dict[str, str] | None] = mapped_column(JSON(none_as_null=True), default=None)
    requested_state: Mapped[str] = mapped_column(String(16), default="")
    resolved: Mapped[dict[str, Any] | None] = mapped_column(JSON, default=None)
    fine_tuned_model: Mapped[str | None] = mapped_column(String(255), default=None)
    finished_at: Mapped[int | None] = mapped_column(BigInteger, default=None)
    estimated_finish: Mapped[int | None] = mapped_column(BigInteger, default=None)
    trained_tokens: Mapped[int | None] = mapped_column(BigInteger, default=None)
    result_files: Mapped[list[str]] = mapped_column(JSON, default_factory=list)
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON, default=None)
    worker: Mapped[str | None] = mapped_column(String(128), default=None)
    leased_until: Mapped[float | None] = mapped_column(default=None)

    __table_args__ = (
        Index("ix_jobs_status_seq", "status", "seq"),
        Index("ix_jobs_project_seq", "project", "seq"),
        Index("ix_jobs_unlabelled", "seq", sqlite_where=_Unlabelled, postgresql_where=_Unlabelled),
    )


class MetaRow(Table):
    """One key of a job's metadata, so that jobs are found by it without reading all of them."""

    __tablename__ = "job_meta"

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(String(512), primary_key=True)
    job_seq: Mapped[int] = mapped_column(ForeignKey("jobs.seq"), primary_key=True)


class EventRow(Table):
    """An event of a job; each `log_position` of a job is written once."""

    __tablename__ = "events"

    seq: Mapped[int] = mapped_column(_Seq, primary_key=True, init=False)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    created_at: Mapped[int] = mapped_column(BigInteger)
    level: Mapped[str] = mapped_column(String(8))
    message: Mapped[str] = mapped_column(Text)
    type: Mapped[str] = mapped_column(String(16), default="message")
    data: Mapped[dict[str, Any] | None] = mapped_column(JSON, default=None)
    log_position: Mapped[str | None] = mapped_column(String(128), default=None)

    __table_args__ = (
        Index("ix_events_job_seq", "job_id", "seq"),
        Index("ix_events_log_position", "job_id", "log_position", unique=True),
    )


class ModelRow(Table):
    """A tuned model that can be asked: a finished job's, or one of its checkpoints.

    `folder` is relative to the data folder. `scale` and `slope` say which part of the adapter.
    `decision` is the verdict's; None of a checkpoint, which has none.
    """

    __tablename__ = "models"

    seq: Mapped[int] = mapped_column(_Seq, primary_key=True, init=False)
    name: Mapped[str] = mapped_column(String(255), unique=True)
    base: Mapped[str] = mapped_column(String(255))
    job_id: Mapped[str | None] = mapped_column(String(64), index=True)
    folder: Mapped[str] = mapped_column(Text)
    created_at: Mapped[int] = mapped_column(BigInteger)
    decision: Mapped[str | None] = mapped_column(String(16), default=None)
    step: Mapped[int | None] = mapped_column(default=None)
    checkpoint_id: Mapped[str | None] = mapped_column(String(64), unique=True, default=None)
    metrics: Mapped[dict[str, Any] | None] = mapped_column(JSON, default=None)
    deleted: Mapped[bool] = mapped_column(default=False)


class PermissionRow(Table):
    """A project that may use a checkpoint."""

    __tablename__ = "permissions"

    seq: Mapped[int] = mapped_column(_Seq, primary_key=True, init=False)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    checkpoint: Mapped[str] = mapped_column(String(255))
    project_id: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[int] = mapped_column(BigInteger)

    __table_args__ = (
        Index("ix_permissions_checkpoint_seq", "checkpoint", "seq"),
        Index("ix_permissions_project", "checkpoint", "project_id", unique=True),
    )


class AliasRow(Table):
    """A name that stands for a tuned model."""

    __tablename__ = "aliases"

    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    target: Mapped[str] = mapped_column(String(255), index=True)
    created_at: Mapped[int] = mapped_column(BigInteger)
    forced: Mapped[bool] = mapped_column(default=False)


class DeletedRow(Table):
    """Where a row stood in its list before it was deleted; `table` is the list's."""

    __tablename__ = "deleted"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    table: Mapped[str] = mapped_column(String(32))
    seq: Mapped[int] = mapped_column(BigInteger)


class KeyRow(Table):
    """An API key: only its salted hash is kept. Limits are per minute; None is no limit.

    A key without a `project` is of the whole organization.
    """

    __tablename__ = "keys"

    seq: Mapped[int] = mapped_column(_Seq, primary_key=True, init=False)
    id: Mapped[str] = mapped_column(String(64), unique=True)
    name: Mapped[str] = mapped_column(String(255))
    salt: Mapped[bytes] = mapped_column(LargeBinary(16))
    hash: Mapped[bytes] = mapped_column(LargeBinary(32))
    scopes: Mapped[list[str]] = mapped_column(JSON)
    created_at: Mapped[int] = mapped_column(BigInteger)
    requests: Mapped[int | None] = mapped_column(default=None)
    tokens: Mapped[int | None] = mapped_column(default=None)
    project: Mapped[str | None] = mapped_column(String(64), default=None)
    revoked_at: Mapped[int | None] = mapped_column(BigInteger, default=None)


class SwitchRow(Table):
    """What is on or off for the whole installation: `keys`, whether every request needs one."""

    __tablename__ = "switches"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    is_on: Mapped[bool]
    changed_at: Mapped[int] = mapped_column(BigInteger)


class AuditRow(Table):
    """One change of state; `hash` covers the line and the hash before it."""

    __tablename__ = "audit"

    seq: Mapped[int] = mapped_column(_Seq, primary_key=True, init=False)
    time: Mapped[float]
    actor: Mapped[str] = mapped_column(String(128))
    action: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(String(255))
    data: Mapped[dict[str, Any]] = mapped_column(JSON)
    previous: Mapped[str] = mapped_column(String(64))
    hash: Mapped[str] = mapped_column(String(64), unique=True)
