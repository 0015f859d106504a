"""Uploads: a file that comes in parts, which become one file when the client says so."""

import hashlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from burnish.serving.errors import ApiError, invalid, not_found
from burnish.serving.state import audit, files
from burnish.serving.state.blobs import BlobStore, ReceivedBlob
from burnish.serving.state.database import Database, visible
from burnish.serving.state.ids import new_id
from burnish.serving.state.row_files import START, check_start
from burnish.serving.state.tables import FileRow, PartRow, UploadRow

# Seconds in which all parts have to come, and the most bytes of one part, as the API has them.
LASTS = 3600
PART_LIMIT = 64 << 20


def begin(database: Database, row: UploadRow) -> UploadRow:
    """Write a new upload."""
    row.project = database.project
    with database.writing() as session:
        session.add(row)
        audit.note(session, "upload.create", row.id, purpose=row.purpose, bytes=row.bytes)
    return row


def retrieve(database: Database, name: str) -> UploadRow:
    """Return an upload.

    Raises:
        ApiError: 404, there is no such upload.
    """
    with database.reading() as session:
        return _found(session, name)


def add_part(database: Database, content: BlobStore, name: str, received: ReceivedBlob) -> PartRow:
    """Add a received part to an upload.

    Raises:
        ApiError: there is no such upload, it takes no more parts, or it would become longer than
            was announced.
    """
    part = PartRow(
        id=new_id("part_"),
        upload_id=name,
        bytes=received.size,
        sha256=received.sha256,
        created_at=int(time.time()),
    )
    try:
        with database.writing(files.CONTENT) as session:
            upload = _open(session, name)
            if _others(session, name, received.sha256) + received.size > upload.bytes:
                message = f"The parts are larger than the announced {upload.bytes} bytes."
                raise invalid(message, "data", "upload_too_large")
            content.keep(received)
            session.add(part)
            told = {"part": part.id, "bytes": part.bytes, "sha256": part.sha256}
            audit.note(session, "upload.part", name, **told)
    finally:
        content.drop(received)
    return part


def complete(
    database: Database, content: BlobStore, name: str, part_ids: Sequence[str], md5: str | None
) -> tuple[UploadRow, FileRow]:
    """Join the parts in the given order; a repeated call returns the same file.

    Raises:
        ApiError: the upload is not open, a part is not its own, or length or `md5` differ from
            what was announced.
    """
    if done := _completed(database, name):
        return done
    try:
        with database.reading() as session:
            upload = _found(session, name)
            _check_open(upload)
            parts = _ordered(session, name, part_ids)
        received = content.receive(_joined(content, parts))
        try:
            _check_whole(content, upload, received, md5)
            return _finish(database, content, name, received)
        finally:
            content.drop(received)
    except (ApiError, FileNotFoundError):
        # Another call may have ended it meanwhile, and the parts are gone then.
        if done := _completed(database, name):
            return done
        raise


def cancel(database: Database, content: BlobStore, name: str) -> UploadRow:
    """Cancel an upload, and delete its parts.

    Raises:
        ApiError: there is no such upload, or it is not open any more.
    """
    return files.with_disk_reserve(content, lambda: _cancel(database, content, name))


def _cancel(database: Database, content: BlobStore, name: str) -> UploadRow:
    with database.writing() as session:
        upload = _open(session, name)
        upload.status = "cancelled"
        hashes = _forget_parts(session, name)
        audit.note(session, "upload.cancel", name)
    files.release(database, content, hashes)
    return upload


def _completed(database: Database, name: str) -> tuple[UploadRow, FileRow] | None:
    """The upload with its file, if it has become one."""
    upload = retrieve(database, name)
    if upload.status != "completed" or not upload.file_id:
        return None
    return upload, files.retrieve(database, upload.file_id)


def _finish(
    database: Database, content: BlobStore, name: str, received: ReceivedBlob
) -> tuple[UploadRow, FileRow]:
    with database.writing(files.CONTENT) as session:
        upload = _open(session, name)
        row = files.file_row(received, upload.purpose, upload.filename, upload.lasts)
        row.project = upload.project
        content.keep(received)
        session.add(row)
        upload.status, upload.file_id = "completed", row.id
        hashes = _forget_parts(session, name)
        files.audit_created(session, row)
        audit.note(session, "upload.complete", name, file=row.id)
    files.release(database, content, hashes)
    return upload, row


def _found(session: Session, name: str) -> UploadRow:
    row = session.scalar(select(UploadRow).where(UploadRow.id == name, visible(session, UploadRow)))
    if row is None:
        raise not_found("Upload object", name, "upload_id")
    if row.status == "pending" and row.expires_at <= time.time():
        row.status = "expired"
    return row


def _open(session: Session, name: str) -> UploadRow:
    """The upload, which no other process ends before this transaction does."""
    # A write of nothing: PostgreSQL locks the row for it, SQLite has locked the file already.
    session.execute(update(UploadRow).where(UploadRow.id == name).values(status=UploadRow.status))
    upload = _found(session, name)
    _check_open(upload)
    return upload


def _check_open(upload: UploadRow) -> None:
    if upload.status != "pending":
        raise invalid(f"Upload {upload.id} is {upload.status}.", "upload_id", "invalid_state")


def _ordered(session: Session, name: str, part_ids: Sequence[str]) -> list[PartRow]:
    rows = session.scalars(select(PartRow).where(PartRow.upload_id == name)).all()
    known = {row.id: row for row in rows}
    if unknown := [part for part in part_ids if part not in known]:
        raise invalid(
            f"Upload {name} does not have the part {unknown[0]}.", "part_ids", "unknown_part"
        )
    if len(set(part_ids)) != len(part_ids):
        twice = next(part for part, count in Counter(part_ids).items() if count > 1)
        raise invalid(
            f"'part_ids' names the part {twice} more than once.", "part_ids", "duplicate_part"
        )
    return [known[part] for part in part_ids]


def _others(session: Session, name: str, sha256: str) -> int:
    """Bytes of the parts that differ from this one and each other: a client that heard no answer
    sends a part again, and takes the second one."""
    parts = select(PartRow.sha256, PartRow.bytes).where(PartRow.upload_id == name)
    different = parts.where(PartRow.sha256 != sha256).distinct().subquery()
    return session.scalar(select(func.coalesce(func.sum(different.c.bytes), 0))) or 0


def _joined(content: BlobStore, parts: Sequence[PartRow]) -> Iterator[bytes]:
    for part in parts:
        yield from content.read(part.sha256)


def _check_whole(
    content: BlobStore, upload: UploadRow, received: ReceivedBlob, md5: str | None
) -> None:
    if received.size != upload.bytes:
        message = f"The parts are {received.size} bytes, but {upload.bytes} bytes were announced."
        raise invalid(message, "part_ids", "size_mismatch")
    with received.path.open("rb") as file:
        check_start(upload.purpose, file.read(START), "part_ids")
        file.seek(0)
        if md5 is None:
            return
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5.lower():
        raise invalid(f"The bytes have the MD5 {found}, not {md5}.", "md5", "md5_mismatch")


def _forget_parts(session: Session, name: str) -> list[str]:
    parts = session.scalars(select(PartRow).where(PartRow.upload_id == name)).all()
    for part in parts:
        session.delete(part)
    return [part.sha256 for part in parts]
