"""The base class of all graders, and the models that they may use."""

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
    """Sampling parameters for a grader model's answer; None means the default of the model.

    `schema` is a JSON schema that the answer should follow; other answers are parsed as well as
    possible. `stop` is set when the answer is no longer needed.
    """

    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    schema: Mapping[str, Any] | None = None
    stop: threading.Event | None = None


# (model name, messages in the format of the chat API, sampling parameters) -> answer.
ChatFunction = Callable[[str, Sequence[Mapping[str, str]], SamplingRequest], str]
# Texts -> one vector per text.
EmbedFunction = Callable[[Sequence[str]], Sequence[Sequence[float]]]


@dataclass(frozen=True, slots=True)
class GraderModels:
    """The models that graders may use; None means that none is available.

    `chat` generates answers and `embed` embeds texts. `has_model` checks whether a model exists;
    without it that shows only when the model is used. `limits` apply to Python graders.
    """

    chat: ChatFunction | None = None
    embed: EmbedFunction | None = None
    has_model: Callable[[str], bool] | None = None
    limits: Limits = field(default_factory=Limits)


class Grader(BaseModel):
    """A grader in the format of the API; unknown keys are rejected.

    `pass_threshold` is accepted, as in the API, but does not change the reward: it is for evals.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: str
    name: str = ""
    pass_threshold: Annotated[float, Strict()] | None = None

    @property
    def uses_model(self) -> bool:
        """Whether the grader uses a model, to answer or to embed."""
        return False

    @property
    def uses_cpu(self) -> bool:
        """Whether the grader needs notable CPU time, more than filling in a template."""
        return True

    @abstractmethod
    def grade(self, sample: Sample, models: GraderModels) -> float:
        """Grade one answer.

        Raises:
            GradingError: the answer could not be graded.
        """

    def check(self, models: GraderModels) -> None:
        """Check everything that can be checked without an answer.

        Raises:
            GraderError: the grader cannot work here.
        """
