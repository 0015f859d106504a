"""Graders that use a model: their messages, and how its answer is parsed."""

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from burnish.errors import GraderError
from burnish.evaluation.graders.base import Grader, GraderModels, SamplingRequest
from burnish.evaluation.graders.template import LONGEST, GradingError, Sample, Template

TOKENS = 256  # default length of a grader model's answer


class TextPart(BaseModel):
    """A text part of a message; images and audio are rejected, as no model here supports them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["input_text", "output_text", "text"]
    text: Template


class GraderMessage(BaseModel):
    """One message to the grader model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["user", "assistant", "system", "developer"]
    content: Template | TextPart | list[Template | TextPart]
    type: Literal["message"] = "message"

    def fill(self, sample: Sample, room: int) -> dict[str, str]:
        """Fill in the templates; returns the message in the chat API's format, parts joined."""
        parts = self.content if isinstance(self.content, list) else [self.content]
        pieces = []
        for part in parts:
            pieces.append(sample.fill(part if isinstance(part, str) else part.text, room))
            room -= len(pieces[-1])
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": "".join(pieces)}


class SamplingParams(BaseModel):
    """Sampling parameters of the API; `reasoning_effort` is accepted and has no effect here."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    max_completions_tokens: int | None = Field(None, gt=0)
    reasoning_effort: str | None = None
    seed: int | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)

    def request(self, schema: Mapping[str, Any]) -> SamplingRequest:
        """These parameters as a request, with defaults and the schema of the answer."""
        tokens = self.max_completions_tokens or TOKENS
        return SamplingRequest(self.temperature, self.top_p, self.seed, tokens, schema)


class ModelGrader(Grader):
    """A grader that uses a model, with the name that a client of the server would use."""

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
            code, why = "no_judge", "but no model is available here"
            remedy = "use a grader without a model, or run the grader through the server"
        elif models.has_model is not None and not models.has_model(self.model):
            code, why = "unknown_model", "which does not exist"
            remedy = "use one of the models that the server lists"
        else:
            return
        name = self.name or self.type
        seen = f"the grader {name!r} needs the model {self.model}, {why}"
        raise GraderError(seen, remedy, code=code, grader=name, model=self.model)

    def ask_model(self, sample: Sample, models: GraderModels, request: SamplingRequest) -> str:
        """Send the filled-in messages to the model and return its answer.

        Raises:
            GradingError: the model gave no answer.
        """
        messages, room = [], LONGEST
        for message in self.input:
            messages.append(message.fill(sample, room))
            room -= len(messages[-1]["content"])
        if models.chat is None:
            raise GradingError("model_grader_server_error", "no model is available here")
        try:
            return models.chat(self.model, messages, request)
        # The engine may fail in any way; the answer is not graded, and the outcome reports why.
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise GradingError("model_grader_server_error", reason) from error


def result_schema(result: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON schema of an object with `result` as its only field."""
    return {
        "type": "object",
        "properties": {"result": dict(result)},
        "required": ["result"],
        "additionalProperties": False,
    }


def parse_result(answer: str) -> Any:
    """The `result` of a JSON answer, the JSON value itself, or else the text."""
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        return answer.strip()
    return value.get("result") if isinstance(value, dict) else value
