"""Graders that ask a model: their messages, and how its answer is read."""

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from burnish.errors import GraderError
from burnish.evaluation.graders.base import Grader, GraderModels, SamplingRequest
from burnish.evaluation.graders.template import LONGEST, GradingError, Sample, Template

TOKENS = 256  # of a judge's answer, where the grader does not say


class TextPart(BaseModel):
    """A part of a message; images and sound are refused, as no judge here could see or hear."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["input_text", "output_text", "text"]
    text: Template


class GraderMessage(BaseModel):
    """One message for the judge."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["user", "assistant", "system", "developer"]
    content: Template | TextPart | list[Template | TextPart]
    type: Literal["message"] = "message"

    def fill(self, sample: Sample, room: int) -> dict[str, str]:
        """In the chat API's shape; parts are joined, and a developer speaks as the system."""
        parts = self.content if isinstance(self.content, list) else [self.content]
        pieces = []
        for part in parts:
            pieces.append(sample.fill(part if isinstance(part, str) else part.text, room))
            room -= len(pieces[-1])
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": "".join(pieces)}


class SamplingParams(BaseModel):
    """How the judge's answer is drawn; `reasoning_effort` is taken, and models here have none."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    max_completions_tokens: int | None = Field(None, gt=0)
    reasoning_effort: str | None = None
    seed: int | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)

    def request(self, schema: Mapping[str, Any]) -> SamplingRequest:
        tokens = self.max_completions_tokens or TOKENS
        return SamplingRequest(self.temperature, self.top_p, self.seed, tokens, schema)


class ModelGrader(Grader):
    """A grader whose judge is a model, named as a client of this server would name it."""

    model: str
    input: list[GraderMessage] = Field(min_length=1)

    @property
    def uses_model(self) -> bool:
        return True

    @property
    def uses_cpu(self) -> bool:
        return False

    def check(self, models: GraderModels) -> None:
        if models.chat is None:
            raise GraderError(
                f"the grader {self.name or self.type!r} asks the model {self.model}, and nothing "
                "here answers",
                "use a grader that needs no model, or run it through the server",
                code="no_judge",
                grader=self.name or self.type,
                model=self.model,
            )
        if models.has_model is not None and not models.has_model(self.model):
            raise GraderError(
                f"the grader {self.name or self.type!r} asks the model {self.model}, which is not "
                "there",
                "name one of the models that are listed",
                code="unknown_model",
                grader=self.name or self.type,
                model=self.model,
            )

    def ask_model(self, sample: Sample, models: GraderModels, request: SamplingRequest) -> str:
        """The judge's answer.

        Raises:
            GradingError: there is none.
        """
        messages, room = [], LONGEST
        for message in self.input:
            messages.append(message.fill(sample, room))
            room -= len(messages[-1]["content"])
        if models.chat is None:
            raise GradingError("model_grader_server_error", "nothing here answers for a model")
        try:
            return models.chat(self.model, messages, request)
        # Whatever the judge's engine fails of, the answer was not graded, and the run says why.
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            raise GradingError("model_grader_server_error", said) from error


def result_schema(result: Mapping[str, Any]) -> dict[str, Any]:
    """An object whose only field is the result."""
    return {
        "type": "object",
        "properties": {"result": dict(result)},
        "required": ["result"],
        "additionalProperties": False,
    }


def parse_result(answer: str) -> Any:
    """The `result` of an answer in JSON, the JSON itself, or else the text."""
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError):
        return answer.strip()
    return found.get("result") if isinstance(found, dict) else found
