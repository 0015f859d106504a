"""Graders as the API defines them: one answer and its row to one number, 0 to 1 as a rule.

A new kind is a file with its class, and an entry of `Graders`.
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
    """What came of grading one answer; the reward is 0 where an error kept it from its grade.

    `parts` are the grades of a multi grader's own graders, `model` is who was asked.
    """

    reward: float
    seconds: float
    errors: tuple[GradingError, ...] = ()
    parts: Mapping[str, float] = field(default_factory=dict)
    model: str | None = None


def parse_grader(spec: Any, models: GraderModels | None = None) -> Grader:
    """The grader that an object of the API describes, checked as far as that goes without answers.

    Raises:
        GraderError: it is none, or its models are not there.
    """
    try:
        grader = _ADAPTER.validate_python(spec)
    except ValidationError as error:
        first = error.errors()[0]
        place = _place(spec, first["loc"], missing=first["type"] == "missing")
        raise GraderError(
            f"the grader's {place} cannot be used ({first['msg']})",
            "correct it",
            code="invalid_grader",
            key=place,
            reason=first["type"],
            details=first.get("ctx", {}),
        ) from None
    grader.check(models or GraderModels())
    return grader


def _place(spec: Any, steps: Sequence[str | int], *, missing: bool) -> str:
    """Where in the object; the other steps are names of the types that were tried."""
    found: list[str | int] = []
    for number, step in enumerate(steps, 1):
        try:
            spec = spec[step]
        except (KeyError, IndexError, TypeError):
            if not missing or number < len(steps):
                continue
        found.append(step)
    return ".".join(map(str, found)) or "type"


def read_grader(path: Path, models: GraderModels | None = None) -> Grader:
    """The grader that a JSON file holds.

    Raises:
        GraderError: there is no such file, it is no JSON, or holds no grader.
    """
    try:
        spec = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GraderError(
            f"{path} cannot be read ({error.strerror})",
            "correct the path",
            code="file_missing" if isinstance(error, FileNotFoundError) else "file_unreadable",
            path=str(path),
        ) from None
    except (ValueError, RecursionError) as error:
        raise GraderError(
            f"{path} is no JSON ({error})",
            "write one grader in it",
            code="not_json",
            path=str(path),
        ) from None
    return parse_grader(spec, models)


def run(grader: Grader, sample: Sample, models: GraderModels | None = None) -> Outcome:
    """Grades one answer; what goes wrong is told in the outcome, never raised."""
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
