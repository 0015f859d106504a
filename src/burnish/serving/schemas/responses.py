"""Rows as the API's objects: the official client's own types, so that no field is missing."""

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
    """The client's type lacks a purpose that it can send."""

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
    """The client's type knows a multi grader of one grader alone, and not of several by name."""

    method: dict[str, Any] | None = None  # type: ignore[assignment]


class WholeUpload(Upload):
    """An upload whose file has any purpose."""

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
    """The page as a list of those items; its ends are named, if it has any."""
    ends = [dict(item)["id"] for item in (items[0], items[-1])] if items else [None, None]
    return {
        "object": "list",
        "data": items,
        "has_more": has_more,
        "first_id": ends[0],
        "last_id": ends[1],
    }


def json_page(items: Sequence[dict[str, Any]], *, has_more: bool) -> Response:
    """The same of a long list: to make objects of the documented type would take longer than to
    read the rows."""
    return Response(to_json(list_page(items, has_more=has_more)), media_type="application/json")


def file_object(row: FileRow) -> File:
    shown = (row.id, row.bytes, row.created_at, row.filename, row.purpose, row.expires_at)
    return File.model_validate(file_fields(*shown))


def file_fields(
    id: str, bytes: int, created_at: int, filename: str, purpose: str, expires_at: int | None
) -> dict[str, Any]:
    """A `File` before it is one, with every field in the same order."""
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
    return UploadPart(
        id=row.id, created_at=row.created_at, object="upload.part", upload_id=row.upload_id
    )


def job_object(row: JobRow, organization: str) -> Job:
    return Job.model_validate(job_fields(row, organization))


def job_fields(row: JobRow, organization: str) -> dict[str, Any]:
    """A `Job` before it is one, with every field in the same order.

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
