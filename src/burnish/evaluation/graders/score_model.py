"""A grader in which a model gives a number."""

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
    """A number that a model gives, clipped to `range`."""

    type: Literal["score_model"]
    range: tuple[float, float] = (0.0, 1.0)
    sampling_params: SamplingParams = SamplingParams()

    @field_validator("range")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not value[0] < value[1]:
            raise PydanticCustomError(
                "reversed_range", "has to be two numbers, the lower one first"
            )
        return value

    def grade(self, sample: Sample, models: GraderModels) -> float:
        low, high = self.range
        schema = result_schema({"type": "number", "minimum": low, "maximum": high})
        answer = self.ask_model(sample, models, self.sampling_params.request(schema))
        number = parse_number(answer)
        if number is None or number != number:
            raise GradingError(
                "model_grader_parse_error", f"no number found in the answer {answer[:200]!r}"
            )
        return min(max(number, low), high)


def parse_number(answer: str) -> float | None:
    """The only number in an answer; None if there is none or more than one."""
    result = parse_result(answer)
    if isinstance(result, bool) or result is None:
        return None
    if isinstance(result, int) and abs(result) > sys.float_info.max:
        return math.inf if result > 0 else -math.inf
    if isinstance(result, int | float):
        return float(result)
    numbers = _NUMBER.findall(result) if isinstance(result, str) else []
    return float(numbers[0]) if len(numbers) == 1 else None
