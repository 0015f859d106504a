"""A grader that combines several graders with a formula."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from burnish.evaluation.graders.base import Grader, GraderModels
from burnish.evaluation.graders.formula import Formula, FormulaError
from burnish.evaluation.graders.label_model import LabelModel
from burnish.evaluation.graders.python_code import PythonCode
from burnish.evaluation.graders.score_model import ScoreModel
from burnish.evaluation.graders.string_check import StringCheck
from burnish.evaluation.graders.template import GradingError, Sample
from burnish.evaluation.graders.text_similarity import TextSimilarity

Single = Annotated[
    StringCheck | TextSimilarity | PythonCode | ScoreModel | LabelModel,
    Field(discriminator="type"),
]


def _by_name(value: Any) -> Any:
    """Accept a single grader: the API's guide has graders by name, its client types only one."""
    if isinstance(value, Mapping) and isinstance(value.get("type"), str):
        return {re.sub(r"\W", "_", str(value.get("name") or value["type"])): value}
    return value


_MOST = 64  # graders in one


class Multi(Grader):
    """Several graders by name, and a formula over their grades; they cannot be nested."""

    type: Literal["multi"]
    graders: Annotated[
        dict[str, Single], BeforeValidator(_by_name), Field(min_length=1, max_length=_MOST)
    ]
    calculate_output: str

    @model_validator(mode="after")
    def _names_are_there(self) -> "Multi":
        try:
            names = Formula(self.calculate_output).names
        except FormulaError as error:
            raise PydanticCustomError(
                "invalid_formula", "{problem}", {"problem": str(error)}
            ) from None
        unknown = sorted(names - self.graders.keys())
        if unknown:
            known = ", ".join(self.graders)
            raise PydanticCustomError(
                "unknown_name",
                "calculate_output uses {shown}, but the graders are {known}",
                {"shown": repr(unknown[0]), "known": known},
            )
        return self

    @property
    def uses_model(self) -> bool:
        return any(grader.uses_model for grader in self.graders.values())

    @property
    def uses_cpu(self) -> bool:
        return any(grader.uses_cpu for grader in self.graders.values())

    def check(self, models: GraderModels) -> None:
        for grader in self.graders.values():
            grader.check(models)

    def grade_parts(
        self, sample: Sample, models: GraderModels
    ) -> tuple[dict[str, float], list[GradingError]]:
        """The grade of each grader by name, and the errors of those that failed."""
        grades: dict[str, float] = {}
        errors: list[GradingError] = []
        for name, grader in self.graders.items():
            try:
                grades[name] = grader.grade(sample, models)
            except GradingError as error:
                errors.append(error)
        return grades, errors

    def combine(self, grades: Mapping[str, float]) -> float:
        """Evaluate the formula.

        Raises:
            GradingError: it has no value for these grades.
        """
        try:
            return Formula(self.calculate_output).value(grades)
        except FormulaError as error:
            raise GradingError("formula_parse_error", str(error)) from None

    def grade(self, sample: Sample, models: GraderModels) -> float:
        grades, errors = self.grade_parts(sample, models)
        if errors:
            raise errors[0]
        return self.combine(grades)
