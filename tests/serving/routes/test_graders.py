"""Graders through the official client: what it types, and what it raises."""

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import httpx2
import openai
import pytest
from fastapi import FastAPI
from openai.types.fine_tuning.alpha import GraderRunResponse
from openai.types.graders import MultiGrader, StringCheckGrader

from burnish.evaluation.graders import SamplingRequest
from burnish.inference.types import TokenCounts
from burnish.serving.app.exception_handlers import add_handlers
from burnish.serving.routes.graders import router
from tests.serving.api_refused import api_refused

EQ: Any = {
    "type": "string_check",
    "name": "same",
    "operation": "eq",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
}
SCORE: Any = {
    "type": "score_model",
    "name": "judge",
    "model": "smollm2-135m",
    "input": [{"role": "user", "content": "{{sample.output_text}}"}],
}


def asker(model: str, messages: Sequence[Mapping[str, str]], request: SamplingRequest) -> str:
    return '{"result": 0.75}' if messages[0]["content"] == "yes" else "no idea"


class ModelRegistry:
    """As the server's, with a judge of one's own."""

    def __init__(self, answer: Callable[..., str]) -> None:
        self.answer = answer

    def ask(
        self, name: str, messages: Any, request: SamplingRequest, project: str | None
    ) -> tuple[str, TokenCounts]:
        return self.answer(name, messages, request), TokenCounts(10, 4, 3)


def judged(answer: Callable[..., str]) -> SimpleNamespace:
    return SimpleNamespace(engines=ModelRegistry(answer))


def served(service: Any = None) -> openai.AsyncOpenAI:
    app = FastAPI()
    app.include_router(router, prefix="/v1")
    add_handlers(app)
    if service is not None:
        app.state.service = service
    transport = httpx2.ASGITransport(app=app)
    return openai.AsyncOpenAI(
        api_key="none",
        base_url="http://localhost/v1",
        max_retries=0,
        http_client=httpx2.AsyncClient(transport=transport),
        _strict_response_validation=True,
    )


async def graded(
    grader: Any, text: str, item: Any = None, service: Any = None
) -> GraderRunResponse:
    async with served(service) as client:
        graders = client.fine_tuning.alpha.graders
        return await graders.run(grader=grader, model_sample=text, item=item or {})


pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_grade() -> None:
    found = await graded(EQ, "Paris", {"answer": "Paris"})
    assert (found.reward, found.sub_rewards, found.metadata.scores) == (1.0, {}, {})
    assert (found.metadata.name, found.metadata.type) == ("same", "string_check")
    assert found.metadata.execution_time >= 0
    assert not any(v for _, v in found.metadata.errors)


async def test_several_grades() -> None:
    formula: Any = {
        "type": "multi",
        "name": "both",
        "graders": {"same": EQ, "judge": SCORE},
        "calculate_output": "0.5 * same + judge",
    }
    found = await graded(formula, "yes", {"answer": "yes"}, judged(asker))
    assert found.reward == 1.25
    assert found.metadata.token_usage == 13
    assert found.api_model_grader_token_usage_per_model == {
        "smollm2-135m": {
            "prompt_tokens": 10,
            "completion_tokens": 3,
            "total_tokens": 13,
            "prompt_tokens_details": {"audio_tokens": 0, "cached_tokens": 4},
            "completion_tokens_details": {
                "accepted_prediction_tokens": 0,
                "audio_tokens": 0,
                "reasoning_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }
    }
    assert found.sub_rewards == found.metadata.scores == {"same": 1.0, "judge": 0.75}


async def test_cosine_by_the_services_embedder() -> None:
    cosine: Any = EQ | {"type": "text_similarity", "evaluation_metric": "cosine"}
    del cosine["operation"]
    vectors = {"Rome": [3.0, 4.0], "Oslo": [4.0, 3.0], "Bern": [-4.0, 3.0]}
    service = SimpleNamespace(embedder=lambda texts: [vectors[text] for text in texts])
    for answer, alike in (("Oslo", 24 / 25), ("Bern", 0.0), ("Rome", 1.0)):
        found = await graded(cosine, "Rome", {"answer": answer}, service)
        assert found.reward == pytest.approx(alike)
    with api_refused("invalid_grader", "cosine", param="grader"):
        await graded(cosine, "Rome", {"answer": "Oslo"})


@pytest.mark.parametrize(
    ("grader", "flag", "detail"),
    [
        (EQ | {"reference": "{{item.z}}"}, "invalid_variable_error", ()),
        (EQ | {"reference": "{{sample.output_json.z}}"}, "sample_parse_error", ()),
        (SCORE, "api_model_grader_parse_error", ()),
        (
            {"type": "python", "name": "p", "source": "def grade(s, i):\n    return i['z']\n"},
            "python_grader_runtime_error",
            ("python_grader_runtime_error_details", "line 2: KeyError: 'z'"),
        ),
        (
            {
                "type": "python",
                "name": "p",
                "source": "def grade(s, i):\n    raise ValueError(chr(0xD800))\n",
            },
            "python_grader_runtime_error",
            ("python_grader_runtime_error_details", "line 2: ValueError: \\ud800"),
        ),
        (
            {"type": "python", "name": "p", "source": "import os\ndef grade(s, i): os._exit(3)\n"},
            "python_grader_server_error",
            ("python_grader_server_error_type", "crash"),
        ),
        (
            {"type": "multi", "name": "m", "graders": {"e": EQ}, "calculate_output": "1 / e"},
            "formula_parse_error",
            (),
        ),
    ],
)
async def test_what_went_wrong(grader: Any, flag: str, detail: Sequence[str]) -> None:
    found = await graded(grader, "Rome", {"answer": "Paris"}, judged(asker))
    assert found.reward == 0.0
    raised = [name for name, value in found.metadata.errors if value is True]
    assert raised == [flag]
    if detail:
        assert getattr(found.metadata.errors, detail[0]) == detail[1]


@pytest.mark.parametrize(
    "body",
    [
        "open('/etc/passwd').read()",
        "open('here', 'w')",
        "__import__('socket').create_connection(('127.0.0.1', 80))",
        "__import__('subprocess').run(['true'])",
        "__import__('os').kill(__import__('os').getppid(), 9)",
    ],
)
async def test_a_program_that_would_do_more_than_grade(body: str) -> None:
    source = f"def grade(sample, item):\n    {body}\n    return 1.0\n"
    found = await graded({"type": "python", "name": "p", "source": source}, "Rome")
    assert found.reward == 0.0
    assert found.metadata.errors.python_grader_runtime_error
    assert "PermissionError" in str(found.metadata.errors.python_grader_runtime_error_details)


async def test_a_judges_engine_fails() -> None:
    def broken(model: str, messages: Sequence[Mapping[str, str]], request: SamplingRequest) -> str:
        raise RuntimeError("no such model")

    errors = (await graded(SCORE, "?", service=judged(broken))).metadata.errors
    assert errors.api_model_grader_server_error
    assert errors.api_model_grader_server_error_details == "RuntimeError: no such model"


async def test_validation() -> None:
    async with served() as client:
        graders = client.fine_tuning.alpha.graders
        found = (await graders.validate(grader=EQ)).grader
        assert isinstance(found, StringCheckGrader)
        assert found.to_dict() == EQ
        alone: Any = {"type": "multi", "name": "m", "graders": EQ, "calculate_output": "same"}
        raw = await graders.with_raw_response.validate(grader=alone)
        assert raw.http_response.json()["grader"]["calculate_output"] == "same"
        assert MultiGrader(**alone).graders.type == "string_check"


@pytest.mark.parametrize(
    ("grader", "param"),
    [
        (EQ | {"operation": "equals"}, "grader.operation"),
        (EQ | {"type": "guess"}, "grader"),
        (EQ | {"reference": "{{ secret }}"}, "grader.reference"),
        (SCORE, "grader"),
        ({"type": "python", "source": "grade = 1"}, "grader"),
    ],
)
async def test_graders_that_are_refused(grader: Any, param: str) -> None:
    async with served() as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.fine_tuning.alpha.graders.validate(grader=grader)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
