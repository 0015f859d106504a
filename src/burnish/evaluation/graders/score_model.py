"""A number that a model gives."""

import math
import re
import sys
from typing import Literal

from pydantic import field_validator
from pydantic_core import PydanticCustomError

from burnish.evaluation.graders.base import Judges
from burnish.evaluation.graders.model_grader import (
    AskingGrader,
    SamplingParams,
    result_of,
    schema_of,
)
from burnish.evaluation.graders.template import GradingError, Subject

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


class ScoreModel(AskingGrader):
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

    def grade(self, subject: Subject, judges: Judges) -> float:
        low, high = self.range
        schema = schema_of({"type": "number", "minimum": low, "maximum": high})
        answer = self.asked(subject, judges, self.sampling_params.wish(schema))
        number = number_of(answer)
        if number is None or number != number:
            raise GradingError("model_grader_parse_error", f"{answer[:200]!r} says no number")
        return min(max(number, low), high)


def number_of(answer: str) -> float | None:
    """The only number that an answer says; None where there is none or a choice."""
    found = result_of(answer)
    if isinstance(found, bool) or found is None:
        return None
    if isinstance(found, int) and abs(found) > sys.float_info.max:
        return math.inf if found > 0 else -math.inf
    if isinstance(found, int | float):
        return float(found)
    numbers = _NUMBER.findall(found) if isinstance(found, str) else []
    return float(numbers[0]) if len(numbers) == 1 else None
