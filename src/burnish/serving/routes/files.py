"""The routes of files: upload, list, download and delete.

The application includes this router with a `max_body_size` a little above the settings'
`max_file_bytes`, so that a larger file is rejected while it arrives.
"""

from collections.abc import Iterator
from typing import Annotated, Any, BinaryIO, Literal

from fastapi import APIRouter, Form, Query, Response, UploadFile
from fastapi.responses import StreamingResponse
from openai.types import FileDeleted

from burnish.serving.errors import invalid
from burnish.serving.routes.dependencies import After, Shared
from burnish.serving.schemas.openapi import BYTES
from burnish.serving.schemas.responses import File, ListPage, file_fields, file_object, json_page
from burnish.serving.state import files
from burnish.serving.state.paging import Cursor
from burnish.serving.state.row_files import START, check_start

router = APIRouter()

Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
# Seconds: an hour, and thirty days, which a batch file lasts where nothing is said.
SHORTEST, LONGEST = 3600, 2592000
_PIECE = 1 << 20


@router.post("/files", summary="Upload a file", response_model=File)
def create(
    service: Shared,
    file: UploadFile,
    purpose: Annotated[Purpose, Form()],
    anchor: Annotated[Literal["created_at"] | None, Form(alias="expires_after[anchor]")] = None,
    seconds: Annotated[
        int | None, Form(alias="expires_after[seconds]", ge=SHORTEST, le=LONGEST)
    ] = None,
) -> Any:
    """Upload a file. A file for `fine-tune` must contain JSON Lines, one object per line."""
    if (anchor is None) != (seconds is None):
        missing = "anchor" if anchor is None else "seconds"
        said, param = f"expires_after has no {missing}.", f"expires_after.{missing}"
        raise invalid(said, param, "missing_required_parameter")
    check_start(purpose, file.file.read(START), "file")
    file.file.seek(0)
    limit = service.settings.max_file_bytes
    received = files.receive(service.content, pieces_of(file.file), limit)
    row = files.file_row(received, purpose, name_of(file), lasting(purpose, seconds))
    return file_object(files.add(service.database, service.content, received, row))


@router.get("/files", summary="List files", response_model=ListPage[File])
def listed(
    service: Shared,
    purpose: Annotated[str | None, Query(max_length=32)] = None,
    limit: Annotated[int, Query(ge=1, le=10000)] = 10000,
    after: After = None,
    order: Literal["asc", "desc"] = "desc",
) -> Response:
    """List the files of the key's project, the newest first unless `order` is `asc`."""
    cursor = Cursor(limit, after, ascending=order == "asc")
    page = files.listed(service.database, cursor, purpose)
    return json_page([file_fields(*row) for row in page.rows], has_more=page.has_more)


@router.get("/files/{file_id}", summary="Get a file", response_model=File)
def retrieve(service: Shared, file_id: str) -> Any:
    """Return the description of a file."""
    return file_object(files.retrieve(service.database, file_id))


@router.get(
    "/files/{file_id}/content",
    summary="Download a file",
    response_class=StreamingResponse,
    responses=BYTES,
)
def content(service: Shared, file_id: str) -> StreamingResponse:
    """Download the content of a file."""
    row = files.retrieve(service.database, file_id)
    return StreamingResponse(
        service.content.read(row.sha256),
        media_type="application/octet-stream",
        headers={"content-length": str(row.bytes)},
    )


@router.delete("/files/{file_id}", summary="Delete a file", response_model=FileDeleted)
def delete(service: Shared, file_id: str) -> Any:
    """Delete a file."""
    files.delete(service.database, service.content, file_id)
    return FileDeleted(id=file_id, deleted=True, object="file")


def name_of(file: UploadFile) -> str:
    """Return the client's name for the file; it is returned to clients and never used as a path."""
    return (file.filename or "upload")[:1024]


def lasting(purpose: str, seconds: int | None) -> int | None:
    """Return for how many seconds a file is kept; None keeps it until it is deleted."""
    return LONGEST if seconds is None and purpose == "batch" else seconds


def pieces_of(file: BinaryIO) -> Iterator[bytes]:
    """Read a file in pieces."""
    while piece := file.read(_PIECE):
        yield piece
