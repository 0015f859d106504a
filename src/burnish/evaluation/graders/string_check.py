"""A grader that compares two texts."""

from collections.abc import Callable
from typing import Literal

from burnish.evaluation.graders.base import Grader, GraderModels
from burnish.evaluation.graders.template import Sample, Template

_OPERATIONS: dict[str, Callable[[str, str], bool]] = {
    "eq": lambda text, reference: text == reference,
    "ne": lambda text, reference: text != reference,
    "like": lambda text, reference: reference in text,
    "ilike": lambda text, reference: reference.casefold() in text.casefold(),
}


class StringCheck(Grader):
    """1 or 0; `like` checks whether the input contains the reference, `ilike` ignoring case."""

    type: Literal["string_check"]
    input: Template
    reference: Template
    operation: Literal["eq", "ne", "like", "ilike"]

    @property
    def uses_cpu(self) -> bool:
        return False

    def grade(self, sample: Sample, models: GraderModels) -> float:
        text, reference = sample.fill(self.input), sample.fill(self.reference)
        return float(_OPERATIONS[self.operation](text, reference))
