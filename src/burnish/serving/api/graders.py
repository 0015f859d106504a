"""Graders, tried before a job pays for them: run on one answer, or only checked."""

from typing import Any

from fastapi import APIRouter, Request
from openai.types.fine_tuning.alpha import GraderRunResponse
from pydantic import BaseModel, ConfigDict, Field

from burnish.errors import GraderError
from burnish.evaluation.graders import FLAGS, Graders, GradingError, Judges, Outcome, Subject, run
from burnish.serving.api.errors import invalid

router = APIRouter(prefix="/fine_tuning/alpha/graders", tags=["graders"])


class CheckedGrader(BaseModel):
    """A grader and nothing else."""

    model_config = ConfigDict(extra="forbid")

    grader: Graders


class GraderRun(CheckedGrader):
    """A grader, an answer, and the row that it answers."""

    model_sample: str
    item: dict[str, Any] = Field(default_factory=dict)


def judges_of(request: Request) -> Judges:
    """Who answers for the models that graders ask: the service's `asker` and `embedder`."""
    service = getattr(request.app.state, "service", None)
    return Judges(getattr(service, "asker", None), getattr(service, "embedder", None))


# Plain functions: FastAPI runs them in threads, where a program or a model may take its time.
@router.post("/run")
def run_grader(body: GraderRun, request: Request) -> GraderRunResponse:
    """The grade of one answer; what kept it from one is told in the metadata."""
    judges = judges_of(request)
    _check(body, judges)
    outcome = run(body.grader, Subject(body.model_sample, body.item), judges)
    return GraderRunResponse.model_validate(
        {
            "reward": outcome.reward,
            "sub_rewards": dict(outcome.parts),
            "model_grader_token_usage_per_model": {},
            "metadata": {
                "name": body.grader.name or body.grader.type,
                "type": body.grader.type,
                "errors": _errors(outcome),
                "execution_time": outcome.seconds,
                "scores": dict(outcome.parts),
                "token_usage": None,
                "sampled_model_name": outcome.model,
            },
        }
    )


@router.post("/validate", response_model_exclude_unset=True)
def validate_grader(body: CheckedGrader, request: Request) -> CheckedGrader:
    """The grader as it was given, where it could be run here."""
    _check(body, judges_of(request))
    return CheckedGrader(grader=body.grader)


def _check(body: CheckedGrader, judges: Judges) -> None:
    try:
        body.grader.check(judges)
    except GraderError as error:
        raise invalid(str(error), "grader", "invalid_grader") from error


def _errors(outcome: Outcome) -> dict[str, Any]:
    """The API's flags; those that nothing here raises are false."""
    first: dict[str, GradingError] = {}
    for error in outcome.errors:
        first.setdefault(error.flag, error)
    details = {flag: error.said for flag, error in first.items()}
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
