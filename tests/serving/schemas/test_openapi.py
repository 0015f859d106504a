"""The served OpenAPI document against the server: schemathesis tries what nobody thought of."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import booleans
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from burnish.serving.app.app import make_app
from burnish.serving.catalog.server import open_server
from burnish.serving.state.installation import Settings
from burnish.serving.state.tables import ModelRow
from tests.serving.conftest import running

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
CHECKPOINT = "ft:tiny:local::12345678:ckpt-step-5"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("schema")
    server = open_server(Settings(folder, models={"tiny": str(tiny_folder)}), device="cpu")
    with server.database.writing() as session:
        session.add(ModelRow(CHECKPOINT, "tiny", "ftjob-a", "none", 1, step=5))
    with running(make_app(server)) as found:
        yield found


@pytest.fixture(scope="module")
def known(address: str) -> dict[str, str]:
    """Names of what is there, so that examples come further than to a 404."""
    with openai.OpenAI(api_key="none", base_url=address) as client:
        file = client.files.create(file=("a", b"{}"), purpose="fine-tune").id
        upload = client.uploads.create(
            filename="a", purpose="fine-tune", bytes=9, mime_type="text/jsonl"
        ).id
        job = client.fine_tuning.jobs.create(model="tiny", training_file=file).id
    return {
        "file_id": file,
        "upload_id": upload,
        "fine_tuning_job_id": job,
        "checkpoint": CHECKPOINT,
        "name": "tiny",
        "model": "tiny",
        "training_file": file,
    }


def shortened(body: Any, known: dict[str, str]) -> Any:
    """The same request about what is there, with an answer of a few tokens."""
    if not isinstance(body, dict):
        return body
    own = {name: known[name] for name in ("model", "training_file") if name in body}
    short = {"max_tokens": 4} if "messages" in body or "prompt" in body else {}
    counts = {name: 2 for name in ("n", "best_of") if body.get(name)}
    without = {k: v for k, v in body.items() if k != "max_completion_tokens"}
    return without | own | short | counts


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_answers_are_as_they_are_documented(
    address: str, known: dict[str, str], mode: GenerationMode
) -> None:
    document = schemathesis.openapi.from_url(address.removesuffix("/v1") + "/openapi.json")
    operations = [found.ok() for found in document.get_all_operations()]
    statuses = {operation.label: answered(operation, mode, known) for operation in operations}
    done = {label for label, seen in statuses.items() if 200 in seen}
    assert len(operations) > 28
    assert mode is GenerationMode.NEGATIVE or len(done) > 15


def answered(operation: Any, mode: GenerationMode, known: dict[str, str]) -> set[int]:
    """The statuses of some examples, each checked."""
    statuses = set()

    @settings(
        max_examples=6,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode), booleans())
    def ask(case: Any, is_there: bool) -> None:
        if is_there and mode is GenerationMode.POSITIVE:
            values = case.path_parameters or {}
            case.path_parameters = {name: known.get(name, v) for name, v in values.items()}
            case.body = shortened(case.body, known)
        statuses.add(case.call_and_validate(checks=CHECKS).status_code)

    with contextlib.suppress(Unsatisfiable):  # a path of any text cannot be wrong
        ask()
    return statuses
