"""The routes of fine-tuning jobs, their events and their checkpoints."""

import re
import secrets
import time
from functools import partial
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response
from openai.types.fine_tuning import FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint

from burnish.errors import GraderError
from burnish.evaluation.graders import GraderModels, parse_grader
from burnish.evaluation.graders.sandbox import Limits
from burnish.evaluation.rewards import local_chat
from burnish.serving.catalog.grader_pool import grader_pool
from burnish.serving.errors import ApiError, invalid
from burnish.serving.jobs import job_recipe
from burnish.serving.routes.dependencies import After, Shared
from burnish.serving.routes.graders import check_scope
from burnish.serving.schemas.jobs import NewJob
from burnish.serving.schemas.responses import (
    Job,
    ListPage,
    checkpoint_object,
    event_object,
    job_fields,
    job_object,
    json_page,
    list_page,
)
from burnish.serving.state import events, files, jobs, models, permissions
from burnish.serving.state.events import Event
from burnish.serving.state.ids import checkpoint_name, new_id
from burnish.serving.state.installation import Service
from burnish.serving.state.paging import Cursor
from burnish.serving.state.tables import JobRow

router = APIRouter(prefix="/fine_tuning/jobs")

_META = re.compile(r"metadata\[(.*)\]")
# Of a job's metadata, the API's own bound.
_KEYS = 16
# Settings of reinforcement that say nothing to the models here.
_IDLE = {"eval_samples": "auto", "reasoning_effort": "default"}


@router.post("", summary="Create a fine-tuning job", response_model=Job)
async def create(service: Shared, body: NewJob, request: Request) -> Any:
    """Create a fine-tuning job. A worker validates its files and starts training."""
    job = await to_thread.run_sync(_job, service, body)
    if body.method is not None and body.method.reinforcement is not None:
        grader = body.method.reinforcement.grader
        check_scope(grader, request)
        await grader_pool(request).run(request, grader, partial(_check_grader, service, job.method))
    row = await to_thread.run_sync(jobs.submit, service.database, job, _idle(job.method))
    return _shown(service, row)


def _job(service: Service, body: NewJob) -> JobRow:
    """What is asked for, as far as it can be checked at once."""
    project = service.database.project
    model = _own_name(service, body.model, project)
    _check_file(service, body.training_file, "training_file")
    if body.validation_file is not None:
        _check_file(service, body.validation_file, "validation_file")
    return JobRow(
        id=new_id("ftjob-"),
        model=model,
        status="validating_files",
        training_file=body.training_file,
        method=body.complete_method(),
        seed=secrets.randbelow(1 << 31) if body.seed is None else body.seed,
        created_at=int(time.time()),
        validation_file=body.validation_file,
        suffix=body.suffix,
        project=project,
        meta=body.metadata or None,
    )


@router.get("", summary="List fine-tuning jobs", response_model=ListPage[Job])
def listed(
    service: Shared,
    request: Request,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
) -> Response:
    """List the fine-tuning jobs, the newest first.

    `metadata[KEY]=VALUE` selects jobs with this metadata, `metadata=null` those without metadata.
    """
    query = request.query_params
    meta = {key[1]: value for name, value in query.items() if (key := _META.fullmatch(name))}
    if (without_metadata := query.get("metadata")) not in (None, "null") or (
        without_metadata and meta
    ):
        raise invalid(
            "Use either metadata[KEY]=VALUE or metadata=null.", "metadata", "invalid_value"
        )
    if len(meta) > _KEYS:
        message = f"The query has {len(meta)} metadata keys, but a job has at most {_KEYS}."
        raise invalid(message, "metadata", "array_above_max_length")
    page = jobs.listed(
        service.database, Cursor(limit, after), meta, without_metadata=without_metadata is not None
    )
    own = service.settings.organization
    return json_page([job_fields(row, own) for row in page.rows], has_more=page.has_more)


@router.get("/{fine_tuning_job_id}", summary="Get a fine-tuning job", response_model=Job)
def retrieve(service: Shared, fine_tuning_job_id: str) -> Any:
    """Return a fine-tuning job with its status and hyperparameters."""
    return _shown(service, jobs.retrieve(service.database, fine_tuning_job_id))


@router.post("/{fine_tuning_job_id}/cancel", summary="Cancel a fine-tuning job", response_model=Job)
def cancel(service: Shared, fine_tuning_job_id: str) -> Any:
    """Cancel a fine-tuning job. Its checkpoints remain available."""
    return _shown(service, jobs.cancel(service.database, fine_tuning_job_id))


@router.post("/{fine_tuning_job_id}/pause", summary="Pause a fine-tuning job", response_model=Job)
def pause(service: Shared, fine_tuning_job_id: str) -> Any:
    """Pause a fine-tuning job. A running job first writes a checkpoint."""
    return _shown(service, jobs.pause(service.database, fine_tuning_job_id))


@router.post("/{fine_tuning_job_id}/resume", summary="Resume a fine-tuning job", response_model=Job)
def resume(service: Shared, fine_tuning_job_id: str) -> Any:
    """Resume a paused fine-tuning job from its last checkpoint."""
    return _shown(service, jobs.resume(service.database, fine_tuning_job_id))


@router.get(
    "/{fine_tuning_job_id}/events",
    summary="List events of a fine-tuning job",
    response_model=ListPage[FineTuningJobEvent],
)
def list_events(
    service: Shared,
    fine_tuning_job_id: str,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
) -> Any:
    """List the events of a fine-tuning job, the newest first."""
    jobs.retrieve(service.database, fine_tuning_job_id)
    page = events.listed(service.database, fine_tuning_job_id, Cursor(limit, after))
    return list_page([event_object(row) for row in page.rows], has_more=page.has_more)


@router.get(
    "/{fine_tuning_job_id}/checkpoints",
    summary="List checkpoints of a fine-tuning job",
    response_model=ListPage[FineTuningJobCheckpoint],
)
def list_checkpoints(
    service: Shared,
    fine_tuning_job_id: str,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 10,
) -> Any:
    """List the checkpoints of a fine-tuning job, the newest first."""
    jobs.retrieve(service.database, fine_tuning_job_id)
    page = models.checkpoints(service.database, fine_tuning_job_id, Cursor(limit, after))
    return list_page([checkpoint_object(row) for row in page.rows], has_more=page.has_more)


def _shown(service: Service, job: JobRow) -> Job:
    return job_object(job, service.settings.organization)


def _own_name(service: Service, name: str, project: str | None) -> str:
    """That of a base model, or of one that was tuned here to the end, which goes on learning.

    The job keeps it in place of an alias, which may stand for another model when the job begins.
    """
    if name in service.settings.models:
        return name
    model = models.find(service.database, name)
    if (
        model is None
        or model.base not in service.settings.models
        or not permissions.may_use(service.database, model, project)
    ):
        known = ", ".join(service.settings.models)
        message = f"Model {name} is not available for fine-tuning. Available models: {known}."
        raise invalid(message, "model", "model_not_available")
    if model.step is not None:
        whole = model.name.removesuffix(checkpoint_name("", model.step))
        message = f"Model {name} is a checkpoint and cannot be fine-tuned further"
        message += f"; use {whole} or a base model."
        raise invalid(message, "model", "model_not_available")
    return model.name


def _check_grader(service: Service, method: dict[str, Any], limits: Limits) -> None:
    """The very check that the job's run would fail at."""
    spec = method["reinforcement"]["grader"]
    models = GraderModels(local_chat(), limits=limits)
    try:
        parse_grader(job_recipe.local_grader(spec, service.settings.models), models)
    except GraderError as error:
        raise invalid(str(error), "method.reinforcement.grader", "invalid_grader") from error


def _check_file(service: Service, name: str, param: str) -> None:
    try:
        row = files.retrieve(service.database, name)
    except ApiError as error:
        raise invalid(f"File '{name}' does not exist.", param, "file_not_found") from error
    if row.purpose != "fine-tune":
        message = f"File '{name}' has the purpose '{row.purpose}', but it must be 'fine-tune'."
        raise invalid(message, param, "invalid_purpose")


def _idle(method: dict[str, Any]) -> tuple[Event, ...]:
    """What was asked for and changes nothing here is said at once."""
    given = method[method["type"]]["hyperparameters"]
    named = [name for name, usual in _IDLE.items() if given.get(name, usual) != usual]
    return tuple(
        Event(f"{name} is {given[name]}, which has no effect on this model", "warn")
        for name in named
    )
