"""The routes of uploads: a large file in parts."""

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, UploadFile
from openai.types import Upload
from openai.types.uploads import UploadPart
from pydantic import Field

from burnish.serving.errors import ApiError
from burnish.serving.routes.dependencies import Shared
from burnish.serving.routes.files import LONGEST, SHORTEST, Purpose, lasting, pieces_of
from burnish.serving.schemas.responses import WholeUpload, part_object, upload_object
from burnish.serving.schemas.sampling import Array, Body
from burnish.serving.state import files, uploads
from burnish.serving.state.ids import new_id
from burnish.serving.state.tables import UploadRow

router = APIRouter()


class ExpiresAfter(Body):
    """How long the file is kept after its creation."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=SHORTEST, le=LONGEST)]


class NewUpload(Body):
    """The description of the file that will be uploaded in parts."""

    filename: Annotated[str, Field(min_length=1, max_length=1024)]
    purpose: Purpose
    bytes: Annotated[int, Field(ge=0)]
    mime_type: Annotated[str, Field(min_length=1, max_length=255)]
    expires_after: ExpiresAfter | None = None


class Order(Body):
    """The parts in their order, and the MD5 hash of the complete file."""

    part_ids: Annotated[Array[str], Field(min_length=1, max_length=100_000)]
    md5: Annotated[str, Field(pattern="^[0-9a-fA-F]{32}$")] | None = None


@router.post("/uploads", summary="Start an upload", response_model=WholeUpload)
def create(service: Shared, body: NewUpload) -> Any:
    """Start an upload. Its parts must arrive within an hour."""
    limit = service.settings.max_file_bytes
    if body.bytes > limit:
        message = f"File is too large: the limit is {limit} bytes."
        raise ApiError(413, message, param="bytes", code="file_too_large")
    now = int(time.time())
    seconds = body.expires_after.seconds if body.expires_after else None
    row = UploadRow(
        id=new_id("upload_"),
        purpose=body.purpose,
        filename=body.filename,
        mime_type=body.mime_type,
        bytes=body.bytes,
        created_at=now,
        expires_at=now + uploads.LASTS,
        lasts=lasting(body.purpose, seconds),
    )
    return upload_object(uploads.begin(service.database, row))


@router.post(
    "/uploads/{upload_id}/parts", summary="Add a part to an upload", response_model=UploadPart
)
def add_part(service: Shared, upload_id: str, data: UploadFile) -> Any:
    """Add a part of at most 64 MiB to an upload."""
    uploads.retrieve(service.database, upload_id)
    received = files.receive(service.content, pieces_of(data.file), uploads.PART_LIMIT)
    return part_object(uploads.add_part(service.database, service.content, upload_id, received))


@router.post(
    "/uploads/{upload_id}/complete", summary="Complete an upload", response_model=WholeUpload
)
def complete(service: Shared, upload_id: str, body: Order) -> Any:
    """Join the parts in the given order, and create the file."""
    row, file = uploads.complete(
        service.database, service.content, upload_id, body.part_ids, body.md5
    )
    return upload_object(row, file)


@router.post("/uploads/{upload_id}/cancel", summary="Cancel an upload", response_model=Upload)
def cancel(service: Shared, upload_id: str) -> Any:
    """Cancel an upload and delete its parts."""
    return upload_object(uploads.cancel(service.database, service.content, upload_id))
