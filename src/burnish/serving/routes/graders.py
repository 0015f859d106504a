"""The routes of graders: run one on an answer, or validate it, before a job uses it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from openai.types.fine_tuning.alpha import GraderRunResponse
from pydantic import BaseModel, ConfigDict, Field

from burnish.errors import GraderError
from burnish.evaluation.graders import (
    FLAGS,
    Grader,
    GraderModels,
    Graders,
    GradingError,
    Outcome,
    Sample,
    SamplingRequest,
    run,
)
from burnish.evaluation.graders.sandbox import Limits
from burnish.serving.catalog.grader_pool import grader_pool
from burnish.serving.errors import forbidden, invalid
from burnish.serving.middleware.request_state import Usage, key_of, project_of, usage_of

router = APIRouter(prefix="/fine_tuning/alpha/graders", tags=["graders"])


class CheckedGrader(BaseModel):
    """A grader."""

    model_config = ConfigDict(extra="forbid")

    grader: Graders


class GraderRun(CheckedGrader):
    """A grader, the answer to grade, and the row that the answer belongs to."""

    model_sample: str
    item: dict[str, Any] = Field(default_factory=dict)


class Judging:
    """The models that graders of one request may ask; counts their tokens.

    A grader asks only models that the request's own key may ask.
    """

    def __init__(self, request: Request, limits: Limits) -> None:
        service = getattr(request.app.state, "service", None)
        self._engines: Any = getattr(service, "engines", None)
        self._project, self._total = project_of(request), usage_of(request)
        self.used: dict[str, Usage] = {}
        ask = self._ask if self._engines is not None else None
        self._stop = limits.stop
        self.models = GraderModels(ask, getattr(service, "embedder", None), limits=limits)

    @property
    def told(self) -> dict[str, dict[str, Any]]:
        """Token usage per model, as objects of the API."""
        return {
            name: usage.told.model_dump(exclude_unset=True) for name, usage in self.used.items()
        }

    def knows(self, model: str) -> bool:
        """Whether the request's key may use the model."""
        return self._engines.named(model, self._project) is not None

    def _ask(
        self, model: str, messages: Sequence[Mapping[str, str]], request: SamplingRequest
    ) -> str:
        request = replace(request, stop=self._stop)
        text, used = self._engines.ask(model, messages, request, self._project)
        for usage in (self.used.setdefault(model, Usage()), self._total):
            usage.prompt += used.prompt
            usage.cached += used.cached
            usage.generated += used.drawn
        return str(text)


def check_scope(grader: Grader, request: Request) -> None:
    """Reject a grader that asks a model if the key may not use models.

    Raises:
        ApiError: a model would answer for a key that may not ask any.
    """
    key = key_of(request)
    if grader.uses_model and key is not None and not key.may("infer"):
        raise forbidden(
            f"The grader {grader.name or grader.type!r} uses a model, but this key lacks the "
            "required scope infer. Use a key with that scope, or a grader without a model."
        )


@router.post("/run", summary="Run a grader")
async def run_grader(body: GraderRun, request: Request) -> GraderRunResponse:
    """Grade one answer. If grading fails, the `errors` in the metadata say why."""
    check_scope(body.grader, request)
    return await grader_pool(request).run(
        request, body.grader, lambda limits: _run(body, Judging(request, limits))
    )


def _run(body: GraderRun, judging: Judging) -> GraderRunResponse:
    _check(body, judging.models)
    outcome = run(body.grader, Sample(body.model_sample, body.item), judging.models)
    return GraderRunResponse.model_validate(
        {
            "reward": outcome.reward,
            "sub_rewards": dict(outcome.parts),
            "model_grader_token_usage_per_model": judging.told,
            "metadata": {
                "name": body.grader.name or body.grader.type,
                "type": body.grader.type,
                "errors": _errors(outcome),
                "execution_time": outcome.seconds,
                "scores": dict(outcome.parts),
                "token_usage": sum(usage.tokens for usage in judging.used.values()) or None,
                "sampled_model_name": outcome.model,
            },
        }
    )


@router.post("/validate", summary="Validate a grader", response_model_exclude_unset=True)
async def validate_grader(body: CheckedGrader, request: Request) -> CheckedGrader:
    """Check that a grader can run on this server, and return it."""

    def validated(limits: Limits) -> CheckedGrader:
        """Check the grader, and return it unchanged."""
        judging = Judging(request, limits)
        _check(body, replace(judging.models, has_model=judging.knows))
        return CheckedGrader(grader=body.grader)

    return await grader_pool(request).run(request, body.grader, validated)


def _check(body: CheckedGrader, models: GraderModels) -> None:
    try:
        body.grader.check(models)
    except GraderError as error:
        raise invalid(str(error), "grader", "invalid_grader") from error


def _errors(outcome: Outcome) -> dict[str, Any]:
    """The API's flags; those that nothing here raises are false."""
    first: dict[str, GradingError] = {}
    for error in outcome.errors:
        first.setdefault(error.flag, error)
    details = {flag: error.message for flag, error in first.items()}
    stopped = first.get("python_grader_server_error")
    return {
        **{flag: flag in first for flag in FLAGS},
        "truncated_observation_error": False,
        "unresponsive_reward_error": False,
        "model_grader_refusal_error": False,
        "model_grader_server_error_details": details.get("model_grader_server_error"),
        "python_grader_runtime_error_details": details.get("python_grader_runtime_error"),
        "python_grader_server_error_type": stopped.kind if stopped else None,
    }
