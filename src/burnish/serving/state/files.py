"""Files: rows that say what bytes are for; the bytes go when the last row that needs them goes."""

import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from sqlalchemy import ColumnElement, Row, exists, or_, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from burnish.serving.errors import ApiError, not_found
from burnish.serving.state import audit, paging
from burnish.serving.state.blobs import BlobStore, ReceivedBlob, TooLongError
from burnish.serving.state.database import Database, visible
from burnish.serving.state.disk import is_full
from burnish.serving.state.ids import new_id
from burnish.serving.state.paging import Cursor, Page, page_of_columns
from burnish.serving.state.tables import FileRow, PartRow, UploadRow

T = TypeVar("T")
# Held by who gives bytes their name or removes them, so that neither undoes the other's work.
CONTENT = "content"
# What a list shows of a file: id, bytes, created_at, filename, purpose, expires_at.
Shown = Row[str, int, int, str, str, int | None]


def receive(content: BlobStore, pieces: Iterable[bytes], limit: int) -> ReceivedBlob:
    """Write a client's bytes to disk.

    Raises:
        ApiError: 413, there are more than `limit` of them.
    """
    try:
        return content.receive(pieces, limit)
    except TooLongError as error:
        message = f"File is too large: the limit is {limit} bytes."
        raise ApiError(413, message, param="file", code="file_too_large") from error


def add(database: Database, content: BlobStore, received: ReceivedBlob, row: FileRow) -> FileRow:
    """Store received bytes under a new row."""
    row.project = database.project
    try:
        with database.writing(CONTENT) as session:
            content.keep(received)
            session.add(row)
            audit_created(session, row)
    finally:
        content.drop(received)
    return row


def audit_created(session: Session, row: FileRow) -> None:
    """Write the audit line of a new file, without the client's file name."""
    told = {"purpose": row.purpose, "bytes": row.bytes, "sha256": row.sha256}
    audit.note(session, "file.create", row.id, **told)


def file_row(
    received: ReceivedBlob, purpose: str, filename: str, lasts: int | None = None
) -> FileRow:
    """Return a row for received bytes; `lasts` is how many seconds the file is kept."""
    now = int(time.time())
    return FileRow(
        id=new_id("file-"),
        purpose=purpose,
        filename=filename,
        bytes=received.size,
        sha256=received.sha256,
        created_at=now,
        expires_at=None if lasts is None else now + lasts,
    )


def retrieve(database: Database, name: str) -> FileRow:
    """Return the row of a file.

    Raises:
        ApiError: 404, there is no such file, or it has expired.
    """
    with database.reading() as session:
        row = _found(session, name)
    if row is None:
        raise not_found("File object", name)
    return row


def listed(database: Database, cursor: Cursor, purpose: str | None = None) -> Page[Shown]:
    """Return a page of files."""
    query = select(
        FileRow.id,
        FileRow.bytes,
        FileRow.created_at,
        FileRow.filename,
        FileRow.purpose,
        FileRow.expires_at,
    ).where(_lives())
    if purpose is not None:
        query = query.where(FileRow.purpose == purpose)
    with database.reading() as session:
        query = query.where(visible(session, FileRow))
        return page_of_columns(session, FileRow, query, cursor)


def delete(database: Database, content: BlobStore, name: str) -> None:
    """Delete a file.

    Raises:
        ApiError: 404, there is no such file.
    """
    with_disk_reserve(content, lambda: _delete(database, content, name))


def _delete(database: Database, content: BlobStore, name: str) -> None:
    with database.writing() as session:
        row = _found(session, name)
        if row is None:
            raise not_found("File object", name)
        paging.delete(session, row)
        audit.note(session, "file.delete", name)
    release(database, content, [row.sha256])


def with_disk_reserve(content: BlobStore, work: Callable[[], T]) -> T:
    """Do `work`, which deletes something; on a full disk, free the reserve first."""
    try:
        return work()
    except (OSError, SQLAlchemyError) as error:
        if not is_full(error) or not content.reserve.give_up():
            raise
    try:
        return work()
    finally:
        content.reserve.keep()


def release(database: Database, content: BlobStore, hashes: Iterable[str]) -> None:
    """Delete the bytes that no row refers to any more.

    Called after the rows were deleted and committed: a kill in between leaves bytes that nobody
    needs, never a row without its bytes.
    """
    with database.reading() as session:
        left = [sha256 for sha256 in set(hashes) if not _is_needed(session, sha256)]
    for sha256 in left:
        with database.writing(CONTENT) as session:  # it may be needed again since
            if not _is_needed(session, sha256):
                content.delete(sha256)


def expire(database: Database, content: BlobStore) -> None:
    """Delete files and uploads that have expired."""
    with_disk_reserve(content, lambda: _expire(database, content))


def _expire(database: Database, content: BlobStore) -> None:
    now = int(time.time())
    with database.writing() as session:
        gone = session.scalars(select(FileRow).where(FileRow.expires_at <= now)).all()
        late = session.scalars(
            select(UploadRow).where(UploadRow.status == "pending", UploadRow.expires_at <= now)
        ).all()
        parts = session.scalars(
            select(PartRow).where(PartRow.upload_id.in_([upload.id for upload in late]))
        ).all()
        for upload in late:
            upload.status = "expired"
        for part in parts:
            session.delete(part)
        for file in gone:
            paging.delete(session, file)
            audit.note(session, "file.expire", file.id)
        for upload in late:
            audit.note(session, "upload.expire", upload.id)
    hashes = [row.sha256 for row in gone] + [row.sha256 for row in parts]
    release(database, content, hashes)


def sweep(database: Database, content: BlobStore) -> None:
    """Delete bytes that killed processes left; it reads all names, so call it rarely."""
    content.drop_stale()
    kept = set(content.hashes())
    with database.reading() as session:
        kept.difference_update(session.scalars(select(FileRow.sha256)))
        kept.difference_update(session.scalars(select(PartRow.sha256)))
    release(database, content, kept)


def _found(session: Session, name: str) -> FileRow | None:
    return session.scalar(
        select(FileRow).where(FileRow.id == name, _lives(), visible(session, FileRow))
    )


def _lives() -> ColumnElement[bool]:
    return or_(FileRow.expires_at.is_(None), FileRow.expires_at > int(time.time()))


def _is_needed(session: Session, sha256: str) -> bool:
    file, part = exists().where(FileRow.sha256 == sha256), exists().where(PartRow.sha256 == sha256)
    return bool(session.scalar(select(or_(file, part))))
