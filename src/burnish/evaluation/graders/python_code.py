"""A grader that runs a Python function in a sandbox."""

from typing import Literal

from pydantic import field_validator
from pydantic_core import PydanticCustomError

from burnish.errors import GraderError
from burnish.evaluation.graders.base import Grader, GraderModels
from burnish.evaluation.graders.sandbox import check_source, run_grade
from burnish.evaluation.graders.template import GradingError, Sample

_LARGEST = 256 * 1024  # bytes, the API's own limit


class PythonCode(Grader):
    """Python source with a function `grade(sample, item)` that returns a number.

    `image_tag` is accepted and has no effect: the installed packages are used.
    """

    type: Literal["python"]
    source: str
    image_tag: str | None = None

    @field_validator("source")
    @classmethod
    def _small(cls, value: str) -> str:
        if (size := len(value.encode(errors="replace"))) > _LARGEST:
            raise PydanticCustomError(
                "source_too_long",
                "has {count} bytes, more than the limit of {limit}",
                {"count": size, "limit": _LARGEST},
            )
        return value

    def check(self, models: GraderModels) -> None:
        try:
            check_source(self.source, models.limits)
        except GradingError as error:
            raise GraderError(
                f"the source of the grader is invalid ({error.message})",
                "write a module that defines grade(sample, item)",
                code="invalid_source",
                flag=error.flag,
                kind=error.kind,
            ) from None

    def grade(self, sample: Sample, models: GraderModels) -> float:
        return run_grade(self.source, sample.as_dict, sample.item, models.limits)
