"""A number that a model gives."""

import math
import re
import sys
from typing import Literal

from pydantic import field_validator
from pydantic_core import PydanticCustomError

from burnish.evaluation.graders.base import GraderModels
from burnish.evaluation.graders.model_grader import (
    ModelGrader,
    SamplingParams,
    parse_result,
    result_schema,
)
from burnish.evaluation.graders.template import GradingError, Sample

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


class ScoreModel(ModelGrader):
    """A number that a model gives, brought into `range` where it lies outside."""

    type: Literal["score_model"]
    range: tuple[float, float] = (0.0, 1.0)
    sampling_params: SamplingParams = SamplingParams()

    @field_validator("range")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not value[0] < value[1]:
            raise PydanticCustomError("reversed_range", "must be two numbers, the lower one first")
        return value

    def grade(self, sample: Sample, models: GraderModels) -> float:
        low, high = self.range
        schema = result_schema({"type": "number", "minimum": low, "maximum": high})
        answer = self.ask_model(sample, models, self.sampling_params.request(schema))
        number = parse_number(answer)
        if number is None or number != number:
            raise GradingError("model_grader_parse_error", f"{answer[:200]!r} says no number")
        return min(max(number, low), high)


def parse_number(answer: str) -> float | None:
    """The only number that an answer says; None where there is none or a choice."""
    found = parse_result(answer)
    if isinstance(found, bool) or found is None:
        return None
    if isinstance(found, int) and abs(found) > sys.float_info.max:
        return math.inf if found > 0 else -math.inf
    if isinstance(found, int | float):
        return float(found)
    numbers = _NUMBER.findall(found) if isinstance(found, str) else []
    return float(numbers[0]) if len(numbers) == 1 else None
