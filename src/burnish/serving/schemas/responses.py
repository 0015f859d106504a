"""Database rows as objects of the API, by the official client's own types."""

from collections.abc import Sequence
from typing import Any, Generic, Literal, TypeVar

from fastapi import Response
from openai.types import FileObject, Upload
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from openai.types.uploads import UploadPart
from pydantic import BaseModel
from pydantic_core import to_json

from burnish.serving.state.tables import EventRow, FileRow, JobRow, ModelRow, PartRow, UploadRow

Item = TypeVar("Item", bound=BaseModel)

_SUPERVISED = ("batch_size", "learning_rate_multiplier", "n_epochs")


class File(FileObject):
    """A file; the client's type lacks one purpose that the client can send."""

    purpose: Literal[  # type: ignore[assignment]
        "assistants",
        "assistants_output",
        "batch",
        "batch_output",
        "evals",
        "fine-tune",
        "fine-tune-results",
        "vision",
        "user_data",
    ]


class Job(FineTuningJob):
    """A fine-tuning job; `method` also allows a multi grader with several named graders."""

    method: dict[str, Any] | None = None  # type: ignore[assignment]


class WholeUpload(Upload):
    """An upload; its file may have any purpose."""

    file: File | None = None


class ListPage(BaseModel, Generic[Item]):
    """A page of a list."""

    object: Literal["list"]
    data: list[Item]
    has_more: bool
    first_id: str | None = None
    last_id: str | None = None


def list_page(
    items: Sequence[BaseModel | dict[str, Any]], *, has_more: bool = False
) -> dict[str, Any]:
    """Return one page of a list, with the ids of its first and last item."""
    ends = [dict(item)["id"] for item in (items[0], items[-1])] if items else [None, None]
    return {
        "object": "list",
        "data": items,
        "has_more": has_more,
        "first_id": ends[0],
        "last_id": ends[1],
    }


def json_page(items: Sequence[dict[str, Any]], *, has_more: bool) -> Response:
    """Return the same page as a response; validating a long list again would take longer than
    reading it."""
    return Response(to_json(list_page(items, has_more=has_more)), media_type="application/json")


def file_object(row: FileRow) -> File:
    """Return a file as an object of the API."""
    shown = (row.id, row.bytes, row.created_at, row.filename, row.purpose, row.expires_at)
    return File.model_validate(file_fields(*shown))


def file_fields(
    id: str, bytes: int, created_at: int, filename: str, purpose: str, expires_at: int | None
) -> dict[str, Any]:
    """Return the fields of a `File`, all of them in the same order."""
    return {
        "id": id,
        "bytes": bytes,
        "created_at": created_at,
        "filename": filename,
        "object": "file",
        "purpose": purpose,
        "status": "processed",
        "expires_at": expires_at,
        "status_details": None,
    }


def upload_object(row: UploadRow, file: FileRow | None = None) -> WholeUpload:
    """Return an upload as an object of the API."""
    return WholeUpload(
        id=row.id,
        bytes=row.bytes,
        created_at=row.created_at,
        expires_at=row.expires_at,
        filename=row.filename,
        object="upload",
        purpose=row.purpose,
        status=row.status,
        file=file and file_object(file),
    )


def part_object(row: PartRow) -> UploadPart:
    """Return a part of an upload as an object of the API."""
    return UploadPart(
        id=row.id, created_at=row.created_at, object="upload.part", upload_id=row.upload_id
    )


def job_object(row: JobRow, organization: str) -> Job:
    """Return a job as an object of the API."""
    return Job.model_validate(job_fields(row, organization))


def job_fields(row: JobRow, organization: str) -> dict[str, Any]:
    """Return the fields of a `Job`, all of them in the same order.

    A paused job waits as a queued one does: the API has no word of its own for it.
    """
    taken = row.resolved or {}
    kind = row.method["type"]
    chosen = {**(row.method[kind].get("hyperparameters") or {}), **taken}
    method = {"type": kind, kind: {**row.method[kind], "hyperparameters": chosen}}
    shown = chosen if kind == "supervised" else {}
    return {
        "id": row.id,
        "created_at": row.created_at,
        "error": row.error,
        "fine_tuned_model": row.fine_tuned_model,
        "finished_at": row.finished_at,
        "hyperparameters": {name: shown.get(name) for name in _SUPERVISED},
        "model": row.model,
        "object": "fine_tuning.job",
        "organization_id": f"org-{organization}",
        "result_files": row.result_files,
        "seed": row.seed,
        "status": "queued" if row.status == "paused" else row.status,
        "trained_tokens": row.trained_tokens,
        "training_file": row.training_file,
        "validation_file": row.validation_file,
        "estimated_finish": row.estimated_finish,
        "integrations": [],
        "metadata": row.meta,
        "method": method,
    }


def event_object(row: EventRow) -> FineTuningJobEvent:
    """Return an event as an object of the API."""
    return FineTuningJobEvent(
        id=row.id,
        created_at=row.created_at,
        level=row.level,
        message=row.message,
        object="fine_tuning.job.event",
        data=row.data,
        type=row.type,
    )


def checkpoint_object(row: ModelRow) -> FineTuningJobCheckpoint:
    """Return a checkpoint as an object of the API."""
    return FineTuningJobCheckpoint.model_validate(
        {
            "id": row.checkpoint_id,
            "created_at": row.created_at,
            "fine_tuned_model_checkpoint": row.name,
            "fine_tuning_job_id": row.job_id,
            "metrics": row.metrics or {},
            "object": "fine_tuning.job.checkpoint",
            "step_number": row.step,
        }
    )
