"""A job of the API as a Burnish recipe, and its files where a recipe finds them.

A job's folder holds train.jsonl and, where the job has one, validation.jsonl; grader.json of a
reinforcement job; and recipe.yaml, which is written once and last. The rows stay as OpenAI has
them: those of a grader are prompts in `messages`, and their other fields are for the grader.
"""

import codecs
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from burnish.data.readers.encoding import lines, open_utf8
from burnish.data.readers.json import other_kind
from burnish.errors import DataError, GraderError, quantity
from burnish.recipe.schema import Recipe
from burnish.runs.atomic import write_atomic
from burnish.serving.state.tables import JobRow

RUN = "run"
# The files of a job's folder, without their ending, as the API calls them.
FILES = {"train": "training file", "validation": "validation file"}
OBJECTIVES = {"supervised": "sft", "dpo": "dpo", "reinforcement": "grpo"}
# Rows of one forward pass; more of them are accumulated.
_AT_ONCE = 32
# Fewer teach nothing, and the API takes no fewer.
MIN_ROWS = 10
# How files begin that gzip, zip, bzip2, xz or zstd wrote.
_PACKED = (b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
# What grpo samples for each prompt where compute_multiplier is 1.
_ANSWERS = 8


@dataclass(frozen=True, slots=True)
class Start:
    """What a job's model is before it learns.

    Attributes:
        source: the base model by its Burnish name.
        run: of a tuned model that learns on.
    """

    source: str
    run: Path | None = None


def recipe_for(
    job: JobRow, folder: Path, start: Start, given: Mapping[str, Any], rate: float
) -> dict[str, Any]:
    """Return the recipe's values by dotted key; what the job leaves `auto` keeps the recipe's
    default.

    Args:
        job: what is asked.
        folder: the job's own; the run will be `run` in there.
        start: the model.
        given: the installation's values, which the job's own go before.
        rate: the learning rate that a multiplier of 1 stands for.
    """
    kind = job.method["type"]
    values: dict[str, Any] = {
        "replay.rows": "auto",  # scripts for the API cannot ask for it, and want a release
        **given,
        "name": RUN,
        "output": str(folder),
        "model": start.source,
        "data.train": str(folder / "train.jsonl"),
        "objective": OBJECTIVES[kind],
        "seed": job.seed,
    }
    if job.validation_file is not None:
        values["data.validation"] = str(folder / "validation.jsonl")
    if start.run is not None:  # an adapter on an adapter could not share the base's weights
        values |= {"init_from": str(start.run), "init": "continue"}
    if kind == "reinforcement":
        values |= {"data.columns.prompt": "messages", "grpo.reward": str(folder / "grader.json")}
        # What it samples cannot be shared, nor be learnt beside what is held to the base.
        values |= {"training.workers": 1, "replay.rows": 0}
    query = job.method[kind]["hyperparameters"]
    chosen = {name: value for name, value in query.items() if value != "auto"}
    return values | _hyperparameters(chosen, rate)


def _hyperparameters(chosen: Mapping[str, Any], rate: float) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if (epochs := chosen.get("n_epochs")) is not None:
        values["training.epochs"] = epochs
    if (rows := chosen.get("batch_size")) is not None:
        once = max(part for part in range(1, _AT_ONCE + 1) if rows % part == 0)
        values |= {"training.batch_size": once, "training.gradient_accumulation": rows // once}
    if (multiplier := chosen.get("learning_rate_multiplier")) is not None:
        values["training.learning_rate"] = rate * multiplier
    if (beta := chosen.get("beta")) is not None:
        values["dpo.beta"] = beta
    if (compute := chosen.get("compute_multiplier")) is not None:
        values["grpo.num_generations"] = max(2, round(_ANSWERS * compute))
    return values


def validation_passes(recipe: Recipe, interval: int, rows: int) -> int:
    """Return the number of validation passes if there is one every `interval` steps; `rows` is the
    number of training rows."""
    held = recipe.data.split.test + (0 if recipe.data.validation else recipe.data.split.validation)
    each = recipe.training.batch_size * recipe.training.gradient_accumulation
    steps = rows * (1 - held) / each * recipe.training.epochs
    return max(1, round(steps / interval))


def resolved(job: JobRow, recipe: Recipe, multiplier: float | None = None) -> dict[str, Any]:
    """Return the hyperparameters that were used; those that are not known yet stay `auto`."""
    kind = job.method["type"]
    taken: dict[str, Any] = dict(job.method[kind]["hyperparameters"])
    taken["n_epochs"] = max(1, round(recipe.training.epochs))
    taken["batch_size"] = recipe.training.batch_size * recipe.training.gradient_accumulation
    if multiplier is not None:
        taken["learning_rate_multiplier"] = multiplier
    if kind == "dpo":
        taken["beta"] = recipe.dpo.beta
    if kind == "reinforcement":
        taken["compute_multiplier"] = recipe.grpo.num_generations / _ANSWERS
    return taken


def local_grader(spec: Mapping[str, Any], models: Mapping[str, str]) -> dict[str, Any]:
    """Return the grader with the model names of the API replaced by Burnish's own names.

    Raises:
        GraderError: it asks a model that is no base model of this installation.
    """
    result = {
        name: local_grader(value, models) if isinstance(value, Mapping) else value
        for name, value in spec.items()
    }
    if spec.get("type") in ("score_model", "label_model"):
        if spec["model"] not in models:
            raise GraderError(
                f"the grader uses the model {spec['model']}, which is not available to jobs",
                f"choose one of {', '.join(models)}",
                code="unknown_model",
                model=spec["model"],
                expected=[*models],
            )
        result["model"] = models[spec["model"]]
    return result


def write_job_files(
    job: JobRow, folder: Path, sources: Mapping[str, Path], models: Mapping[str, str]
) -> int:
    """Put the uploaded rows into the job's folder; `sources` are the files of `train` and
    `validation`.

    Returns:
        How many rows there are to learn from.

    Raises:
        DataError: a file has no lines of rows, or there are too few.
    """
    folder.mkdir(parents=True, exist_ok=True)
    counts = {name: _linked(folder, name, source) for name, source in sources.items()}
    if counts["train"] < MIN_ROWS:
        raise DataError(
            f"the training file has {quantity(counts['train'], 'example')}",
            f"upload a file with at least {MIN_ROWS}",
            code="too_few_rows",
            part="train",
            count=counts["train"],
            least=MIN_ROWS,
        )
    if job.method["type"] == "reinforcement":
        grader = local_grader(job.method["reinforcement"]["grader"], models)
        write_atomic(folder / "grader.json", json.dumps(grader))
    return counts["train"]


def write_recipe(path: Path, values: Mapping[str, Any]) -> None:
    """Write the recipe as YAML."""
    write_atomic(path, yaml.safe_dump(dict(values), sort_keys=False))


def _linked(folder: Path, name: str, source: Path) -> int:
    """The very bytes under a name that ends as the reader of rows expects."""
    target = folder / f"{name}.jsonl"
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk
        shutil.copyfile(source, target)
    with source.open("rb") as file:
        _check_lines(name, file.peek())
    if kind := _other_kind(target):
        raise DataError(
            f"the {FILES[name]} is {kind}",
            "upload JSON Lines, one object per line",
            code="other_file_kind",
            part=name,
            found=kind,
        )
    with open_utf8(target) as text:
        return sum(1 for line in lines(text) if line.strip())


def _other_kind(path: Path) -> str:
    """What a file that is no JSON Lines is; empty where it may be."""
    with path.open("rb") as file:
        start = file.read(8)
    for magic, kind in ((b"PAR1", "a Parquet file"), (b"ARROW1", "an Arrow file")):
        if start.startswith(magic):
            return kind
    try:
        result = other_kind(path)
    except DataError as error:
        if error.code != "not_text":
            raise
        return str(error.fields.get("found", "not a text file"))
    return result[0] if result else ""


def _check_lines(name: str, start: bytes) -> None:
    """What is no file of lines would be told how many it has of them."""
    if start.startswith(_PACKED):
        raise DataError(
            f"the {FILES[name]} is compressed",
            "upload it as plain text",
            code="compressed",
            part=name,
        )
    if start.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"[":
        raise DataError(
            f"the {FILES[name]} is one JSON array",
            "write one JSON object per line",
            code="json_array",
            part=name,
        )
