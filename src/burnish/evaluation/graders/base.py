"""What all kinds of grader have in common, and whom they may ask."""

import threading
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Strict

from burnish.evaluation.graders.sandbox import Limits
from burnish.evaluation.graders.template import Sample


@dataclass(frozen=True, slots=True)
class SamplingRequest:
    """How a judge is to answer; None leaves a choice to whoever answers.

    `schema` is a JSON schema that the answer should follow; an answer that does not is read as
    well as it can be. `stop`, once set, says that nobody waits for the answer any more.
    """

    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    schema: Mapping[str, Any] | None = None
    stop: threading.Event | None = None


# A model's name and messages in the chat API's shape -> its answer.
ChatFunction = Callable[[str, Sequence[Mapping[str, str]], SamplingRequest], str]
# Texts -> a vector each.
EmbedFunction = Callable[[Sequence[str]], Sequence[Sequence[float]]]


@dataclass(frozen=True, slots=True)
class GraderModels:
    """Whom graders may ask: models that answer, and one that embeds. None: nobody is there.

    `knows` says whether there is a model of that name; without it that shows when it is asked.
    `limits` are those of programs that grade.
    """

    chat: ChatFunction | None = None
    embed: EmbedFunction | None = None
    has_model: Callable[[str], bool] | None = None
    limits: Limits = field(default_factory=Limits)


class Grader(BaseModel):
    """A grader as the API writes it; unknown keys are refused.

    `pass_threshold` is taken, as the API takes it, and changes no reward: it is for evals.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: str
    name: str = ""
    pass_threshold: Annotated[float, Strict()] | None = None

    @property
    def uses_model(self) -> bool:
        """Whether a model answers or embeds for it."""
        return False

    @property
    def uses_cpu(self) -> bool:
        """Whether it takes more time of this machine's than to fill in a template, or to wait."""
        return True

    @abstractmethod
    def grade(self, sample: Sample, models: GraderModels) -> float:
        """The grade of one answer.

        Raises:
            GradingError: it could not be graded.
        """

    def check(self, models: GraderModels) -> None:
        """What can be found wrong before there is an answer.

        Raises:
            GraderError: the grader can grade nothing here.
        """
