"""Graders of the OpenAI API: each turns one answer and its row into a number, usually 0 to 1.

To add a grader type, write its class in a file of its own and add it to `Graders`.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from burnish.errors import GraderError
from burnish.evaluation.graders.base import (
    ChatFunction,
    EmbedFunction,
    Grader,
    GraderModels,
    SamplingRequest,
)
from burnish.evaluation.graders.model_grader import ModelGrader
from burnish.evaluation.graders.multi import Multi, Single
from burnish.evaluation.graders.template import FLAGS, Flag, GradingError, Sample

__all__ = [
    "FLAGS",
    "ChatFunction",
    "EmbedFunction",
    "Flag",
    "Grader",
    "GraderModels",
    "Graders",
    "GradingError",
    "Outcome",
    "Sample",
    "SamplingRequest",
    "parse_grader",
    "read_grader",
    "run",
]

Graders = Annotated[Single | Multi, Field(discriminator="type")]
_ADAPTER: TypeAdapter[Grader] = TypeAdapter(Graders)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of grading one answer; the reward is 0 if an error prevented a grade.

    `parts` are the grades of a multi grader's parts, `model` is the model that graded.
    """

    reward: float
    seconds: float
    errors: tuple[GradingError, ...] = ()
    parts: Mapping[str, float] = field(default_factory=dict)
    model: str | None = None


def parse_grader(spec: Any, models: GraderModels | None = None) -> Grader:
    """Validate a grader object of the API.

    Raises:
        GraderError: the object is not a valid grader, or a model that it needs is not available.
    """
    try:
        grader = _ADAPTER.validate_python(spec)
    except ValidationError as error:
        first = error.errors()[0]
        key = _key(spec, first["loc"], missing=first["type"] == "missing")
        raise GraderError(
            f"the key {key} of the grader is invalid ({first['msg']})",
            f"correct {key}",
            code="invalid_grader",
            key=key,
            reason=first["type"],
            details=first.get("ctx", {}),
        ) from None
    grader.check(models or GraderModels())
    return grader


def _key(spec: Any, steps: Sequence[str | int], *, missing: bool) -> str:
    """The dotted key of an error; pydantic's path also contains names of tried types."""
    path: list[str | int] = []
    for number, step in enumerate(steps, 1):
        try:
            spec = spec[step]
        except (KeyError, IndexError, TypeError):
            if not missing or number < len(steps):
                continue
        path.append(step)
    return ".".join(map(str, path)) or "type"


def read_grader(path: Path, models: GraderModels | None = None) -> Grader:
    """Read a grader from a JSON file.

    Raises:
        GraderError: the file cannot be read, is not JSON, or is not a valid grader.
    """
    try:
        spec = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GraderError(
            f"cannot read {path} ({error.strerror})",
            "correct the path",
            code="file_missing" if isinstance(error, FileNotFoundError) else "file_unreadable",
            path=str(path),
        ) from None
    except (ValueError, RecursionError) as error:
        raise GraderError(
            f"{path} is not valid JSON ({error})",
            "correct the file; it has to contain one grader object",
            code="not_json",
            path=str(path),
        ) from None
    return parse_grader(spec, models)


def run(grader: Grader, sample: Sample, models: GraderModels | None = None) -> Outcome:
    """Grade one answer; errors are reported in the outcome and never raised."""
    models, started = models or GraderModels(), time.perf_counter()
    parts: dict[str, float] = {}
    errors: list[GradingError] = []
    value = 0.0
    try:
        if isinstance(grader, Multi):
            parts, errors = grader.grade_parts(sample, models)
            value = 0.0 if errors else grader.combine(parts)
        else:
            value = grader.grade(sample, models)
    except GradingError as error:
        errors.append(error)
    model = grader.model if isinstance(grader, ModelGrader) else None
    return Outcome(value, time.perf_counter() - started, tuple(errors), parts, model)
