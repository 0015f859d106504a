"""Prepare a leased job: find its model, put its rows into its folder, write its recipe."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.models.load import hidden_size
from burnish.models.registry import resolve
from burnish.recipe.objectives import SETTINGS
from burnish.recipe.schema import Recipe, load_recipe
from burnish.serving.errors import ApiError, invalid
from burnish.serving.jobs import job_recipe
from burnish.serving.state import files, models
from burnish.serving.state.ids import tuned_name
from burnish.serving.state.installation import Service
from burnish.serving.state.tables import JobRow
from burnish.training.schedule import automatic_rate


@dataclass(frozen=True, slots=True)
class Prepared:
    """What running a job needs.

    Attributes:
        recipe: as it lies in the job's folder.
        base: the name in the API of the model that all of it comes from.
        tuned: the name of the model that the job makes.
    """

    recipe: Recipe
    base: str
    tuned: str


def prepare(service: Service, job: JobRow) -> Prepared:
    """Prepare a job; a recipe that already is in the job's folder is used unchanged.

    Raises:
        ApiError: the model or a file was deleted before the recipe was written.
        UserError: the rows or the recipe cannot be used.
    """
    folder = service.settings.job_folder(job.id).resolve()
    path = folder / "recipe.yaml"
    if path.exists():
        base = _base(service, job)
    else:
        base, start = _start(service, job)
        rows = job_recipe.write_job_files(
            job, folder, _sources(service, job), service.settings.models
        )
        job_recipe.write_recipe(path, _values(service, job, folder, start, rows))
    tuned = tuned_name(base, service.settings.organization, job.suffix, job.id)
    return Prepared(load_recipe(path), base, tuned)


def _base(service: Service, job: JobRow) -> str:
    """The name of the base of a job that was begun, whatever became of its model since."""
    model = models.known(service.database, job.model)
    return job.model if model is None else model.base


def _start(service: Service, job: JobRow) -> tuple[str, job_recipe.Start]:
    """The name of the base, and where learning starts."""
    known = service.settings.models
    if job.model in known:
        return job.model, job_recipe.Start(known[job.model])
    model = models.find(service.database, job.model)
    if model is None or model.base not in known or model.job_id is None:
        message = f"Model {job.model} is no longer available for fine-tuning."
        raise invalid(message, "model", "model_not_available")
    run = service.settings.job_folder(model.job_id).resolve() / job_recipe.RUN
    return model.base, job_recipe.Start(known[model.base], run)


def _sources(service: Service, job: JobRow) -> dict[str, Path]:
    """The bytes of the job's files."""
    result = {"train": _bytes(service, job.training_file, "training_file")}
    if job.validation_file is not None:
        result["validation"] = _bytes(service, job.validation_file, "validation_file")
    return result


def _bytes(service: Service, name: str, param: str) -> Path:
    try:
        row = files.retrieve(service.database, name)
    except ApiError as error:
        raise invalid(f"File '{name}' no longer exists.", param, "file_not_found") from error
    return service.content.path(row.sha256)


def _values(
    service: Service, job: JobRow, folder: Path, start: job_recipe.Start, rows: int
) -> dict[str, Any]:
    given = service.settings.recipe
    kind = job.method["type"]
    rate = automatic_rate(
        str(given.get("method", "lora")),
        hidden_size(resolve(start.source)),
        share=SETTINGS[job_recipe.OBJECTIVES[kind]].learning_rate_share,
    )
    values = job_recipe.recipe_for(job, folder, start, given, rate)
    interval = job.method[kind]["hyperparameters"].get("eval_interval", "auto")
    if interval != "auto":
        draft = folder / "draft.yaml"
        job_recipe.write_recipe(draft, values)
        passes = job_recipe.validation_passes(load_recipe(draft), interval, rows)
        values["training.evaluations"] = passes
    return values
