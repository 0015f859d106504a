"""The first tables."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

SEQ = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
UNLABELLED = sa.text("meta IS NULL")
OPTIONAL: dict[str, Any] = {"nullable": True}


def upgrade() -> None:
    """Create every table and index."""
    op.create_table(
        "aliases", _text("name", 255, primary_key=True), _text("target", 255),
        _column("created_at"), _column("forced", sa.Boolean),
    )  # fmt: skip
    _numbered(
        "audit", _column("time", sa.Double), _text("actor", 128), _text("action", 64),
        _text("subject", 255), _column("data", sa.JSON), _text("previous", 64),
        _text("hash", 64, unique=True),
    )  # fmt: skip
    op.create_table(
        "deleted", _text("id", 64, primary_key=True), _text("table", 32), _column("seq"),
    )  # fmt: skip
    op.create_table(
        "switches", _text("name", 64, primary_key=True), _column("is_on", sa.Boolean),
        _column("changed_at"),
    )  # fmt: skip
    _numbered(
        "files", _text("id", 64, unique=True), _text("purpose", 32), _column("filename", sa.Text),
        _column("bytes"), _text("sha256", 64), _column("created_at"),
        _column("expires_at", **OPTIONAL), _text("project", 64, **OPTIONAL),
    )  # fmt: skip
    _jobs()
    _numbered(
        "keys", _text("id", 64, unique=True), _text("name", 255),
        _column("salt", sa.LargeBinary(16)), _column("hash", sa.LargeBinary(32)),
        _column("scopes", sa.JSON), _column("created_at"),
        _column("requests", sa.Integer, **OPTIONAL), _column("tokens", sa.Integer, **OPTIONAL),
        _text("project", 64, **OPTIONAL), _column("revoked_at", **OPTIONAL),
    )  # fmt: skip
    _numbered(
        "models", _text("name", 255, unique=True), _text("base", 255),
        _text("job_id", 64, **OPTIONAL), _column("folder", sa.Text), _column("created_at"),
        _text("decision", 16, **OPTIONAL), _column("step", sa.Integer, **OPTIONAL),
        _text("checkpoint_id", 64, unique=True, **OPTIONAL),
        _column("metrics", sa.JSON, **OPTIONAL), _column("deleted", sa.Boolean),
    )  # fmt: skip
    _numbered(
        "permissions", _text("id", 64, unique=True), _text("checkpoint", 255),
        _text("project_id", 64), _column("created_at"),
    )  # fmt: skip
    _numbered(
        "uploads", _text("id", 64, unique=True), _text("purpose", 32),
        _column("filename", sa.Text), _text("mime_type", 255), _column("bytes"),
        _column("created_at"), _column("expires_at"), _text("status", 16),
        _column("lasts", sa.Integer, **OPTIONAL), _text("file_id", 64, **OPTIONAL),
        _text("project", 64, **OPTIONAL),
    )  # fmt: skip
    _numbered(
        "upload_parts", _text("id", 64, unique=True),
        _of("upload_id", sa.String(64), "uploads.id"), _column("bytes"), _text("sha256", 64),
        _column("created_at"),
    )  # fmt: skip
    _indices()


def _jobs() -> None:
    _numbered(
        "jobs", _text("id", 64, unique=True), _text("model", 255), _text("status", 32),
        _text("training_file", 64), _column("method", sa.JSON), _column("seed"),
        _column("created_at"), _text("validation_file", 64, **OPTIONAL),
        _text("suffix", 64, **OPTIONAL), _text("project", 64, **OPTIONAL),
        _column("meta", sa.JSON(none_as_null=True), **OPTIONAL), _text("requested_state", 16),
        _column("resolved", sa.JSON, **OPTIONAL), _text("fine_tuned_model", 255, **OPTIONAL),
        _column("finished_at", **OPTIONAL), _column("estimated_finish", **OPTIONAL),
        _column("trained_tokens", **OPTIONAL), _column("result_files", sa.JSON),
        _column("error", sa.JSON, **OPTIONAL), _text("worker", 128, **OPTIONAL),
        _column("leased_until", sa.Double, **OPTIONAL),
    )  # fmt: skip
    _numbered(
        "events", _text("id", 64, unique=True), _of("job_id", sa.String(64), "jobs.id"),
        _column("created_at"), _text("level", 8), _column("message", sa.Text), _text("type", 16),
        _column("data", sa.JSON, **OPTIONAL), _text("log_position", 128, **OPTIONAL),
    )  # fmt: skip
    op.create_table(
        "job_meta", _text("key", 64, primary_key=True), _text("value", 512, primary_key=True),
        _of("job_seq", SEQ, "jobs.seq", primary_key=True),
    )  # fmt: skip


def _indices() -> None:
    for table, *columns in (
        ("aliases", "target"), ("files", "expires_at"), ("files", "purpose", "seq"),
        ("files", "sha256"), ("files", "project", "seq"), ("jobs", "status", "seq"),
        ("jobs", "project", "seq"), ("models", "job_id"),
        ("permissions", "checkpoint", "seq"), ("upload_parts", "sha256"),
        ("upload_parts", "upload_id"),
    ):  # fmt: skip
        op.create_index(f"ix_{table}_{'_'.join(columns)}", table, columns)
    op.create_index("ix_events_job_seq", "events", ["job_id", "seq"])
    op.create_index("ix_events_log_position", "events", ["job_id", "log_position"], unique=True)
    keys = ["checkpoint", "project_id"]
    op.create_index("ix_permissions_project", "permissions", keys, unique=True)
    op.create_index(
        "ix_jobs_unlabelled", "jobs", ["seq"], sqlite_where=UNLABELLED, postgresql_where=UNLABELLED
    )


def _numbered(table: str, *columns: "sa.Column[Any]") -> None:
    op.create_table(table, _column("seq", SEQ, primary_key=True), *columns)


def _text(name: str, size: int, **options: Any) -> "sa.Column[Any]":
    return _column(name, sa.String(length=size), **options)


def _of(name: str, kind: Any, other: str, **options: Any) -> "sa.Column[Any]":
    """A column that names a row of another table."""
    return sa.Column(name, kind, sa.ForeignKey(other), **{"nullable": False} | options)


def _column(name: str, kind: Any = sa.BigInteger, **options: Any) -> "sa.Column[Any]":
    return sa.Column(name, kind, **{"nullable": False} | options)
