"""A grader in which a model chooses a label."""

from typing import Any, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from burnish.evaluation.graders.base import GraderModels, SamplingRequest
from burnish.evaluation.graders.model_grader import TOKENS, ModelGrader, parse_result, result_schema
from burnish.evaluation.graders.template import GradingError, Sample

_MOST = 1000  # labels; the API's schemas allow as many enum values


class LabelModel(ModelGrader):
    """1 if the label that a model chooses is a passing label, else 0."""

    type: Literal["label_model"]
    labels: list[str] = Field(min_length=1, max_length=_MOST)
    passing_labels: list[str]

    @field_validator("passing_labels")
    @classmethod
    def _among(cls, value: list[str], info: Any) -> list[str]:
        known = set(info.data.get("labels", value))
        unknown = [label for label in value if label not in known]
        if unknown:
            raise PydanticCustomError(
                "unknown_label", "{shown} is not one of the labels", {"shown": repr(unknown[0])}
            )
        return value

    def grade(self, sample: Sample, models: GraderModels) -> float:
        schema = result_schema({"type": "string", "enum": list(self.labels)})
        answer = self.ask_model(
            sample, models, SamplingRequest(temperature=0.0, max_tokens=TOKENS, schema=schema)
        )
        result = parse_result(answer)
        named = [
            label for label in self.labels if str(result).strip().casefold() == label.casefold()
        ]
        if not named:
            raise GradingError(
                "model_grader_parse_error", f"the answer {answer[:200]!r} is not one of the labels"
            )
        return float(named[0] in self.passing_labels)
